# am_torch: libtorch, by default the wheel in .venv. Its headers come last on the path (-idirafter), because the folder
# also carries old protobuf and fmt headers.
if(AUTOMODELD_TORCH_DIR)
  set(torch_dir ${AUTOMODELD_TORCH_DIR})
else()
  file(GLOB torch_dir ${PROJECT_SOURCE_DIR}/.venv/lib/python3*/site-packages/torch)
endif()
if(NOT EXISTS ${torch_dir}/lib/libtorch.so)
  message(FATAL_ERROR "libtorch not found in '${torch_dir}': run tools/setup, set AUTOMODELD_TORCH_DIR, "
                      "or build without it (-DAUTOMODELD_TORCH=OFF)")
endif()

get_filename_component(site_packages ${torch_dir} DIRECTORY)
file(GLOB nvidia_lib_dirs ${site_packages}/nvidia/*/lib)
set(cuda_dir ${site_packages}/nvidia/cu13)

file(GLOB torch_libraries ${torch_dir}/lib/libgomp*.so*)  # the wheel's own OpenMP: two would fight over the cores
foreach(name torch torch_cpu torch_cuda c10 c10_cuda)
  if(EXISTS ${torch_dir}/lib/lib${name}.so)
    list(APPEND torch_libraries ${torch_dir}/lib/lib${name}.so)
  endif()
endforeach()

find_package(OpenMP REQUIRED COMPONENTS CXX)  # at::parallel_for is a header; without this it would run serially
add_library(am_torch INTERFACE)
foreach(dir ${torch_dir}/include ${torch_dir}/include/torch/csrc/api/include ${cuda_dir}/include)
  if(EXISTS ${dir})
    target_compile_options(am_torch INTERFACE
      "$<$<COMPILE_LANGUAGE:CXX>:SHELL:-idirafter ${dir}>"
      "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-idirafter${dir}>")
  endif()
endforeach()
target_compile_options(am_torch INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fpch-preprocess>)
target_compile_options(am_torch INTERFACE $<$<COMPILE_LANGUAGE:CXX>:${OpenMP_CXX_FLAGS}>)
target_link_options(am_torch INTERFACE -Wl,--no-as-needed -Wl,--allow-shlib-undefined)
# libtorch exports parts of a libstdc++ of its own (std::filesystem among them, which crashes there): ours comes first.
target_link_libraries(am_torch INTERFACE stdc++ ${torch_libraries})
if(NOT torch_libraries MATCHES "gomp")
  target_link_libraries(am_torch INTERFACE OpenMP::OpenMP_CXX)
endif()
list(APPEND CMAKE_BUILD_RPATH ${torch_dir}/lib ${nvidia_lib_dirs})

# One precompiled header for every target that uses libtorch: a file compiles in a fifth of the time.
file(WRITE ${PROJECT_BINARY_DIR}/torch_pch.cc.new "")
file(COPY_FILE ${PROJECT_BINARY_DIR}/torch_pch.cc.new ${PROJECT_BINARY_DIR}/torch_pch.cc ONLY_IF_DIFFERENT)
add_library(am_torch_pch OBJECT ${PROJECT_BINARY_DIR}/torch_pch.cc)
target_link_libraries(am_torch_pch PRIVATE am_warnings am_torch)
target_precompile_headers(am_torch_pch PRIVATE <ATen/ATen.h> <torch/library.h>)

# am_torch_library(NAME sources...): an object library over libtorch.
function(am_torch_library name)
  am_library(${name} OBJECT ${ARGN})
  am_link(${name} am_torch)
  if(ARGN)
    target_precompile_headers(${name} REUSE_FROM am_torch_pch)
  endif()
endfunction()

if(AUTOMODELD_CUDA)
  include(Cuda)
endif()
