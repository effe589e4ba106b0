# How this project's targets are made: from globs, some of which may still be empty.

# collect(VARIABLE glob...): the files that match, as absolute paths.
function(collect variable)
  list(TRANSFORM ARGN PREPEND ${PROJECT_SOURCE_DIR}/)
  file(GLOB files CONFIGURE_DEPENDS ${ARGN})
  set(${variable} ${files} PARENT_SCOPE)
endfunction()

# am_library(NAME KIND sources...): a library of ours; an interface one as long as it has no source.
function(am_library name kind)
  if(ARGN)
    add_library(${name} ${kind} ${ARGN})
    target_link_libraries(${name} PRIVATE am_warnings)
    target_include_directories(${name} PUBLIC ${PROJECT_SOURCE_DIR})
  else()
    add_library(${name} INTERFACE)
    target_include_directories(${name} INTERFACE ${PROJECT_SOURCE_DIR})
  endif()
endfunction()

# am_link(NAME libraries...): what NAME and everyone who uses it link.
function(am_link name)
  get_target_property(type ${name} TYPE)
  if(type STREQUAL "INTERFACE_LIBRARY")
    target_link_libraries(${name} INTERFACE ${ARGN})
  else()
    target_link_libraries(${name} PUBLIC ${ARGN})
  endif()
endfunction()
