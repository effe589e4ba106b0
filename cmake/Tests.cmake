# One executable per folder of tests/: <folder>_test. Those without libtorch also run under the sanitizers.
find_package(GTest REQUIRED)
find_package(benchmark REQUIRED)
include(GoogleTest)

# Fakes of core's interfaces, shared by every test without libtorch.
collect(fake_sources tests/engine/fake_*.cc tests/loading/fake_*.cc tests/text/fake_*.cc)
am_library(am_fakes STATIC ${fake_sources})
am_link(am_fakes am_core)

# am_test(FOLDER libraries...): the executable <folder>_test, as long as the folder has a test.
function(am_test folder)
  collect(sources tests/${folder}/*.cc)
  if(fake_sources)
    list(REMOVE_ITEM sources ${fake_sources})
  endif()
  if(NOT sources)
    return()
  endif()
  add_executable(${folder}_test ${sources})
  if(AUTOMODELD_SANITIZE)
    target_sources(${folder}_test PRIVATE ${PROJECT_SOURCE_DIR}/tests/sanitizers.cc)
  endif()
  target_include_directories(${folder}_test PRIVATE ${PROJECT_SOURCE_DIR})
  target_compile_definitions(${folder}_test PRIVATE AUTOMODELD_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  target_link_libraries(${folder}_test PRIVATE am_warnings ${ARGN} GTest::gmock_main)
endfunction()

# Each test of these is a ctest of its own.
foreach(area engine service text loading)
  if(area STREQUAL "service")
    am_test(${area} am_fakes am_server)
  else()
    am_test(${area} am_fakes am_core)
  endif()
  if(TARGET ${area}_test)
    gtest_discover_tests(${area}_test DISCOVERY_MODE PRE_TEST TEST_PREFIX ${area}/
      PROPERTIES LABELS ${area} TIMEOUT 300)
  endif()
endforeach()

# These start libtorch, which takes a second: one ctest per executable.
if(AUTOMODELD_TORCH)
  foreach(area kernels models)
    am_test(${area} am_kernels am_models am_torch am_core)
    if(TARGET ${area}_test)
      target_precompile_headers(${area}_test REUSE_FROM am_torch_pch)
      add_test(NAME ${area} COMMAND ${area}_test)
      set_tests_properties(${area} PROPERTIES LABELS ${area} TIMEOUT 1200)
    endif()
  endforeach()
endif()

# Shared libraries of operations as users write them, one per file of tests/op_libraries: for --op-library and
# op_overrides.
if(AUTOMODELD_TORCH)
  set(op_libraries ${PROJECT_BINARY_DIR}/op_libraries)
  collect(op_library_sources tests/op_libraries/*.cc)
  foreach(source ${op_library_sources})
    get_filename_component(name ${source} NAME_WE)
    add_library(${name} MODULE ${source})
    target_link_libraries(${name} PRIVATE am_warnings am_torch)
    set_target_properties(${name} PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${op_libraries})
    add_dependencies(models_test ${name})
  endforeach()
  target_compile_definitions(models_test PRIVATE AUTOMODELD_OP_LIBRARIES="${op_libraries}")
endif()

# What tests/oracle/*.py compare with transformers.
if(AUTOMODELD_TORCH)
  collect(oracle_sources tests/oracle/*.cc)
  if(oracle_sources)
    add_executable(oracle ${oracle_sources})
    target_link_libraries(oracle PRIVATE am_warnings am_kernels am_models am_torch am_core)
  endif()
endif()

collect(bench_sources tests/bench/*.cc)
if(bench_sources)
  add_executable(engine_bench ${bench_sources})
  target_include_directories(engine_bench PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(engine_bench PRIVATE am_warnings am_fakes am_core benchmark::benchmark_main)
endif()
