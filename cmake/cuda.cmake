# CUDA: nvcc, a static runtime, no libstdc++ at run time, sm_90a (the Hopper instructions that the kernels use). The same binary runs on hosts without a
# driver. Included by the root when TI_CUDA is on, before the rooms.
include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  message(FATAL_ERROR "TI_CUDA is on and there is no nvcc: install the CUDA toolkit, set CMAKE_CUDA_COMPILER, or configure without TI_CUDA")
endif()
if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 90a-real)
endif()
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
enable_language(CUDA)
set(CMAKE_CUDA_IMPLICIT_LINK_LIBRARIES "")
set(CMAKE_CUDA_STANDARD 17)

# kernels/cuda/*.cu as ti_kernels_cuda; C reaches it through kernels/cuda/*.h.
function(ti_cuda_kernels)
  file(GLOB srcs CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/cuda/*.cu)
  add_library(ti_kernels_cuda STATIC ${srcs})
  target_include_directories(ti_kernels_cuda PRIVATE ${CMAKE_BINARY_DIR}/rooms/base ${CMAKE_BINARY_DIR}/rooms/kernels)
  target_compile_options(ti_kernels_cuda PRIVATE -Xcompiler=-Wall,-Wextra,-fno-exceptions,-fno-rtti,-fno-threadsafe-statics --expt-relaxed-constexpr)
  target_link_libraries(ti_kernels_cuda PUBLIC cudart_static dl rt Threads::Threads)
  target_link_directories(ti_kernels_cuda PUBLIC ${CMAKE_CUDA_IMPLICIT_LINK_DIRECTORIES})
endfunction()
