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
set(CMAKE_CUDA_FLAGS_RELEASE "-O3") # no NDEBUG, as in C

# kernels/cuda/* as ti_kernels_cuda: host code in C, kernels and their launchers in CUDA C; the rest reaches it through kernel.h and kernels/cuda/*.h.
function(ti_cuda_kernels)
  file(GLOB srcs CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/cuda/*.cu ${CMAKE_SOURCE_DIR}/kernels/cuda/*.c)
  # What needs no Hopper instruction is built for sm_80 too (all 8.x run it): with cuBLASLt it is a whole table, if a plain one.
  set(plain attention_plain blas convert gemm_tile kv logprobs penalties quant_fp8 rows sample stamp tokens)
  list(TRANSFORM plain REPLACE "(.+)" "${CMAKE_SOURCE_DIR}/kernels/cuda/\\1.cu")
  list(REMOVE_ITEM srcs ${plain})
  add_library(ti_kernels_cuda_plain OBJECT ${plain})
  set_target_properties(ti_kernels_cuda_plain PROPERTIES CUDA_ARCHITECTURES "80-real;90a-real")
  add_library(ti_kernels_cuda STATIC ${srcs} $<TARGET_OBJECTS:ti_kernels_cuda_plain>)
  foreach(t ti_kernels_cuda ti_kernels_cuda_plain)
    target_include_directories(${t} PRIVATE ${CMAKE_BINARY_DIR}/rooms/kernels)
    target_include_directories(${t} SYSTEM PRIVATE ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
    target_compile_options(${t} PRIVATE
      $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra,-Wno-unused-parameter,-fno-exceptions,-fno-rtti,-fno-threadsafe-statics>
      $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr;--compress-mode=size>) # a sixth of the size; unpacked when a kernel is first used
    target_link_libraries(${t} PUBLIC ti_base PRIVATE ti_flags)
    target_compile_definitions(${t} PUBLIC TI_HAVE_CUDA)
  endforeach()
  target_link_libraries(ti_kernels_cuda PUBLIC cudart_static dl rt Threads::Threads)
  target_link_libraries(ti_kernels_cuda PRIVATE ti_kernels) # the reference's dequantisation; a cycle that static libraries may have
  target_link_directories(ti_kernels_cuda PUBLIC ${CMAKE_CUDA_IMPLICIT_LINK_DIRECTORIES})
endfunction()
