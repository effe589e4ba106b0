# am_text_rust: the Rust static library of core/text. All build folders share one cargo folder.
collect(cargo_manifest core/text/Cargo.toml core/text/Cargo.lock)
add_library(am_text_rust INTERFACE)

if(cargo_manifest)
  execute_process(COMMAND ${PROJECT_SOURCE_DIR}/tools/find-cargo
                  OUTPUT_VARIABLE CARGO OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
  get_filename_component(cargo_bin ${CARGO} DIRECTORY)  # its own rustc goes with it
  set(cargo_folder ${PROJECT_SOURCE_DIR}/build/cargo)
  set(rust_archive ${cargo_folder}/release/libautomodeld_text.a)
  collect(rust_sources core/text/src/*.rs core/text/src/*/*.rs core/text/*.rs)
  add_custom_command(
    OUTPUT ${rust_archive}
    COMMAND ${CMAKE_COMMAND} -E env CARGO_TARGET_DIR=${cargo_folder} "PATH=${cargo_bin}:$ENV{PATH}"
            ${CARGO} build --release --locked --manifest-path ${PROJECT_SOURCE_DIR}/core/text/Cargo.toml
    COMMAND ${CMAKE_COMMAND} -E touch ${rust_archive}
    DEPENDS ${rust_sources} ${cargo_manifest}
    USES_TERMINAL
    COMMENT "Building the Rust text library")
  add_custom_target(am_text_rust_archive DEPENDS ${rust_archive})
  add_dependencies(am_text_rust am_text_rust_archive)
  target_link_libraries(am_text_rust INTERFACE ${rust_archive} Threads::Threads ${CMAKE_DL_LIBS} m)
endif()
