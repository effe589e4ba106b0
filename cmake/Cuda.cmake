# nvcc, by default the one in .venv. CMAKE_CUDA_ARCHITECTURES: 90a in development; the preset dist has a release's list.
set(CMAKE_CUDA_ARCHITECTURES "90a" CACHE STRING "Architectures of the CUDA kernels")
if(NOT DEFINED CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX} AND EXISTS ${cuda_dir}/bin/nvcc)
  set(CMAKE_CUDA_COMPILER ${cuda_dir}/bin/nvcc)
endif()
enable_language(CUDA)
if(NOT DEFINED CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know that nvcc takes C++20
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
endif()
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)

# The runtime that libtorch itself uses; a second, static copy would keep a state of its own.
file(GLOB cudart ${cuda_dir}/lib/libcudart.so.*)
if(NOT cudart)
  find_library(cudart cudart REQUIRED HINTS ${CMAKE_CUDA_IMPLICIT_LINK_DIRECTORIES})
endif()

# am_cuda(NAME): NAME may hold CUDA code; AUTOMODELD_CUDA tells its sources so. The warnings are those of am_warnings for
# the host's compiler, and nvcc's own, all of them errors.
function(am_cuda name)
  get_target_property(type ${name} TYPE)
  if(type STREQUAL "INTERFACE_LIBRARY")
    return()
  endif()
  target_compile_definitions(${name} PRIVATE AUTOMODELD_CUDA=1)
  if(CMAKE_CUDA_ARCHITECTURES MATCHES "90a")  # Hopper's own instructions
    target_compile_definitions(${name} PRIVATE AUTOMODELD_SM90A=1)
  endif()
  target_compile_options(${name} PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-DFMT_USE_CONSTEXPR=1 --expt-relaxed-constexpr \
--expt-extended-lambda -Werror all-warnings -Xcompiler=-Wall,-Wextra,-Wconversion,-Wshadow,-Werror>")
  set_target_properties(${name} PROPERTIES CUDA_RUNTIME_LIBRARY None)
  target_link_libraries(${name} PUBLIC ${cudart})
endfunction()
