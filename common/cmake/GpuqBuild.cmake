# GpuqBuild.cmake - one place for standards, warnings, third-party packages, and how a library or test is declared.
include(GNUInstallDirs)
include(CTest)

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
# The developer's build is for turning round quickly: -O1 optimises enough for the simulation, -g1 keeps back-traces. Speed is
# measured with the release preset.
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O1 -g1")
set(CMAKE_C_FLAGS_RELWITHDEBINFO "-O1 -g1")
set(CMAKE_CXX_FLAGS_RELEASE "-O2")

find_program(GPUQ_CCACHE ccache)
if(GPUQ_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${GPUQ_CCACHE})
  set(CMAKE_C_COMPILER_LAUNCHER ${GPUQ_CCACHE})
endif()
find_program(GPUQ_LLD ld.lld)
if(GPUQ_LLD AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  add_link_options(-fuse-ld=lld)
endif()

add_library(gpuq_options INTERFACE)   # warnings; linked by every target of ours
target_compile_options(gpuq_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wnon-virtual-dtor -Werror>)
target_include_directories(gpuq_options INTERFACE ${CMAKE_SOURCE_DIR})
set(GPUQ_SANITIZE "" CACHE STRING "address,undefined or thread")
if(GPUQ_SANITIZE)
  add_compile_options(-fsanitize=${GPUQ_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    add_compile_options(-Wno-maybe-uninitialized)   # g++ 12 sees ghosts in <regex> and std::variant once sanitizers are on
  endif()
  add_link_options(-fsanitize=${GPUQ_SANITIZE})
  if(GPUQ_SANITIZE MATCHES thread AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    add_compile_options(-Wno-tsan)   # Boost's atomic_thread_fence: g++ 12 warns that TSan cannot see it
  endif()
endif()
option(GPUQ_HARDEN "Hardening flags of a release" OFF)
if(GPUQ_HARDEN)
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-D_FORTIFY_SOURCE=3> $<$<COMPILE_LANGUAGE:CXX>:-fstack-protector-strong>)
  add_link_options(-Wl,-z,relro,-z,now)
endif()

set(GPUQ_TORCH "auto" CACHE STRING "Path of a torch package or LibTorch, 'none', or 'auto' (the one ./dev fetched)")

set_property(GLOBAL PROPERTY GPUQ_LEFT_OUT "")
# gpuq_left_out("what" "why"): said in one line at the end of configuring.
function(gpuq_left_out what why)
  set_property(GLOBAL APPEND PROPERTY GPUQ_LEFT_OUT "${what}: ${why}")
endfunction()
function(gpuq_print_summary)
  get_property(left GLOBAL PROPERTY GPUQ_LEFT_OUT)
  message(STATUS "gpuq ${PROJECT_VERSION}, ${CMAKE_BUILD_TYPE}, sanitizers: '${GPUQ_SANITIZE}'")
  foreach(line IN LISTS left)
    message(STATUS "left out - ${line}")
  endforeach()
endfunction()

# gpuq_library(NAME SOURCES a.cpp … LINK target …): a static library of ours.
function(gpuq_library name)
  cmake_parse_arguments(arg "" "" "SOURCES;LINK;PRIVATE_LINK" ${ARGN})
  add_library(${name} STATIC ${arg_SOURCES})
  target_link_libraries(${name} PUBLIC gpuq_options ${arg_LINK} PRIVATE ${arg_PRIVATE_LINK})
endfunction()

# gpuq_program(NAME SOURCES … LINK …): lands in build/<preset>/bin.
function(gpuq_program name)
  cmake_parse_arguments(arg "" "" "SOURCES;LINK" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE gpuq_options ${arg_LINK})
endfunction()

# gpuq_test(NAME LAYER unit|property|sim|conformance|integration|chaos|e2e|fuzz|gpu|install SOURCES … LINK … [TIMEOUT s]
#           [SERIAL]): one GoogleTest binary; each of its tests is a ctest test labelled with its layer.
function(gpuq_test name)
  if(NOT BUILD_TESTING)
    return()
  endif()
  cmake_parse_arguments(arg "SERIAL" "LAYER;TIMEOUT" "SOURCES;LINK" ${ARGN})
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 120)
  endif()
  find_package(GTest REQUIRED)
  include(GoogleTest)
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE gpuq_options ${arg_LINK} GTest::gtest GTest::gmock GTest::gtest_main)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  set(properties LABELS ${arg_LAYER} TIMEOUT ${arg_TIMEOUT})
  if(arg_SERIAL)
    list(APPEND properties RUN_SERIAL TRUE)
  endif()
  gtest_discover_tests(${name} TEST_PREFIX "${arg_LAYER}/${name}/" DISCOVERY_TIMEOUT 60 PROPERTIES ${properties})
endfunction()
