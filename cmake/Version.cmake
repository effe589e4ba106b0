# core/version.cc alone knows the version and the commit, so that a new commit compiles one small file again.
set(commit_header ${PROJECT_BINARY_DIR}/gen/commit.h)
set(git_log ${PROJECT_SOURCE_DIR}/.git/logs/HEAD)
if(NOT EXISTS ${git_log})
  set(git_log)
endif()
add_custom_command(
  OUTPUT ${commit_header}
  COMMAND ${CMAKE_COMMAND} -DSOURCE_DIR=${PROJECT_SOURCE_DIR} -DOUTPUT=${commit_header}
          -P ${PROJECT_SOURCE_DIR}/cmake/WriteCommit.cmake
  DEPENDS ${git_log}
  COMMENT "Writing commit.h")
add_custom_target(am_commit DEPENDS ${commit_header})
add_dependencies(am_generated am_commit)
target_sources(am_core PRIVATE ${commit_header})
set_source_files_properties(${PROJECT_SOURCE_DIR}/core/version.cc PROPERTIES
  COMPILE_DEFINITIONS "AUTOMODELD_VERSION=\"${PROJECT_VERSION}\""
  INCLUDE_DIRECTORIES ${PROJECT_BINARY_DIR}/gen)
