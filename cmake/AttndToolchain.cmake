# Language level, warnings, sanitizers, output folders, and the libraries that everything may use.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()

set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib)
set(CMAKE_ARCHIVE_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib)
set(CMAKE_BUILD_RPATH_USE_ORIGIN ON)
set(CMAKE_INSTALL_RPATH "$ORIGIN/../lib")

find_program(ATTND_CCACHE ccache)
if(ATTND_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${ATTND_CCACHE})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${ATTND_CCACHE})
endif()

# Generated code and third-party headers are exempt; see attnd_warnings.
add_library(attnd_warnings INTERFACE)
target_compile_options(attnd_warnings INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Werror;-Wno-unused-parameter;-Wno-missing-field-initializers>)

if(ATTND_SANITIZE)
  add_compile_options(
    $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${ATTND_SANITIZE}>
    $<$<COMPILE_LANGUAGE:CXX>:-fno-omit-frame-pointer>
    # Whoever runs it and however: undefined behaviour ends the program instead of a line in its log.
    $<$<COMPILE_LANGUAGE:CXX>:-fno-sanitize-recover=all>
    # Instrumentation hides from the compiler what it would need to judge this.
    $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-maybe-uninitialized>)
  add_link_options(-fsanitize=${ATTND_SANITIZE})
  # A size beyond the sanitizer's own limit is refused like one beyond the machine's.
  set(ATTND_TEST_ENVIRONMENT
    "ASAN_OPTIONS=allocator_may_return_null=1"
    "LSAN_OPTIONS=print_suppressions=0:suppressions=${CMAKE_SOURCE_DIR}/tests/sanitizers/leak.supp"
    "TSAN_OPTIONS=halt_on_error=1:allocator_may_return_null=1:suppressions=${CMAKE_SOURCE_DIR}/tests/sanitizers/thread.supp"
    "UBSAN_OPTIONS=print_stacktrace=1")
endif()
# What every program links before every other library.
set(ATTND_LINK_FIRST "")
if(ATTND_SANITIZE STREQUAL "thread")
  # Their headers say why.
  add_library(attnd_tsan_order SHARED tests/sanitizers/abseil.cc tests/sanitizers/grpc_calls.cc)
  target_include_directories(attnd_tsan_order PRIVATE ${CMAKE_SOURCE_DIR})
  set(ATTND_LINK_FIRST attnd_tsan_order)
endif()

set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads REQUIRED)
find_package(absl REQUIRED)
find_package(TBB REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(PkgConfig REQUIRED)
# In this order: the second library answers for the BLAS that the first would fall back on.
find_library(LIBXSMM xsmm REQUIRED)
find_library(LIBXSMM_NOBLAS xsmmnoblas REQUIRED)
pkg_check_modules(LIBHWY REQUIRED IMPORTED_TARGET libhwy)
# A call's parts are taken on one thread and freed on another, which the C library's allocator is slow at. Sanitizers bring their own.
if(NOT ATTND_SANITIZE)
  pkg_check_modules(TCMALLOC REQUIRED IMPORTED_TARGET libtcmalloc_minimal)
  set(ATTND_ALLOCATOR PkgConfig::TCMALLOC)
endif()

if(ATTND_SERVICE)
  find_package(Protobuf REQUIRED)
  find_package(gRPC CONFIG REQUIRED)
endif()

if(ATTND_TESTS)
  enable_testing()
  find_package(GTest REQUIRED)
endif()
if(ATTND_BENCH)
  find_package(benchmark REQUIRED)
endif()

set(ATTND_HAVE_CUDA OFF)
if(ATTND_CUDA)
  include(CheckLanguage)
  if(NOT CMAKE_CUDA_COMPILER)
    find_program(CMAKE_CUDA_COMPILER nvcc HINTS /usr/local/cuda/bin)
  endif()
  if(CMAKE_CUDA_COMPILER)
    if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
      set(CMAKE_CUDA_ARCHITECTURES 80-real 90a-real CACHE STRING "GPU targets")
    endif()
    enable_language(CUDA)
    # CMake 3.25 does not know how this compiler is told its dialect.
    set(CMAKE_CUDA_STANDARD 20)
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
    find_package(CUDAToolkit REQUIRED)
    set(ATTND_HAVE_CUDA ON)
    message(STATUS "attnd: CUDA ${CUDAToolkit_VERSION}: building the CPU and the CUDA backend")
  else()
    message(STATUS "attnd: no CUDA toolkit found: building the CPU backend only")
  endif()
endif()
