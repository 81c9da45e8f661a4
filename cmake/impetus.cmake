# The few heavy headers that most files include, compiled once; a second set with GoogleTest.
function(impetus_precompile)
  if(NOT IMPETUS_PRECOMPILE)
    return()
  endif()
  set(empty ${PROJECT_BINARY_DIR}/precompiled.cpp)
  if(NOT EXISTS ${empty})  # written anew it would make everything build anew
    file(WRITE ${empty} "")
  endif()
  set(heavy <algorithm> <cstdint> <filesystem> <functional> <map> <memory> <mutex> <optional> <span>
    <string> <string_view> <variant> <vector> <fmt/format.h> <boost/json/array.hpp>
    <boost/json/object.hpp> <boost/json/serialize.hpp> <boost/json/value.hpp>)
  add_library(impetus_headers OBJECT ${empty})
  target_link_libraries(impetus_headers PRIVATE Boost::json fmt::fmt spdlog::spdlog Threads::Threads)
  target_precompile_headers(impetus_headers PRIVATE ${heavy})
  if(IMPETUS_TESTS)
    add_library(impetus_test_headers OBJECT ${empty})
    target_link_libraries(impetus_test_headers
      PRIVATE Boost::json fmt::fmt spdlog::spdlog Threads::Threads GTest::gtest)
    target_precompile_headers(impetus_test_headers PRIVATE ${heavy} <gtest/gtest.h>)
  endif()
endfunction()
function(impetus_reuse TARGET HEADERS)
  if(IMPETUS_PRECOMPILE)
    target_precompile_headers(${TARGET} REUSE_FROM ${HEADERS})
  endif()
endfunction()

# All tests and fuzzers of src/, without the program.
add_custom_target(suite)

# impetus_folder(NAME [DEPS folder...] [LINK target...] [TEST_LINK target...] [UNSANITIZED regex])
#
# One folder of src/ is one static library `impetus_NAME`, one test executable `NAME_test` made of
# its *_test.cpp, and, with IMPETUS_FUZZ, one fuzzer per *_fuzz.cpp. DEPS are the folders it may
# include (the table in docs/architecture.md; scripts/check-layers holds both to each other).
# UNSANITIZED: tests that sanitizers cannot follow; the others are built with IMPETUS_SANITIZED then.
function(impetus_folder NAME)
  cmake_parse_arguments(ARG "" "UNSANITIZED" "DEPS;LINK;TEST_LINK" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS *.cpp)
  set(tests ${sources})
  set(fuzzers ${sources})
  list(FILTER tests INCLUDE REGEX "_test\\.cpp$")
  if(IMPETUS_SANITIZE AND ARG_UNSANITIZED)
    list(FILTER tests EXCLUDE REGEX "${ARG_UNSANITIZED}")
  endif()
  list(FILTER fuzzers INCLUDE REGEX "_fuzz\\.cpp$")
  list(FILTER sources EXCLUDE REGEX "_(test|fuzz)\\.cpp$")

  list(TRANSFORM ARG_DEPS PREPEND impetus_ OUTPUT_VARIABLE deps)
  if(sources)
    add_library(impetus_${NAME} STATIC ${sources})
    impetus_reuse(impetus_${NAME} impetus_headers)
    set(scope PUBLIC)
  else()
    add_library(impetus_${NAME} INTERFACE)
    set(scope INTERFACE)
  endif()
  target_include_directories(impetus_${NAME} ${scope} ${PROJECT_SOURCE_DIR}/src)
  target_link_libraries(impetus_${NAME} ${scope} ${deps} ${ARG_LINK})

  if(IMPETUS_TESTS AND tests)
    add_executable(${NAME}_test ${tests})
    add_dependencies(suite ${NAME}_test)
    impetus_reuse(${NAME}_test impetus_test_headers)
    target_compile_options(${NAME}_test PRIVATE -Wno-missing-designated-field-initializers)
    target_include_directories(${NAME}_test PRIVATE ${PROJECT_SOURCE_DIR})
    target_compile_definitions(${NAME}_test PRIVATE
      IMPETUS_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
    if(IMPETUS_SANITIZE AND ARG_UNSANITIZED)
      target_compile_definitions(${NAME}_test PRIVATE IMPETUS_SANITIZED)
    endif()
    target_link_libraries(${NAME}_test PRIVATE impetus_${NAME} ${ARG_TEST_LINK} GTest::gtest GTest::gtest_main)
    add_test(NAME ${NAME} COMMAND ${NAME}_test)
    set(timeout 600)
    if(IMPETUS_SANITIZE)
      set(timeout 2400)
    endif()
    set_tests_properties(${NAME} PROPERTIES TIMEOUT ${timeout})
  endif()

  if(IMPETUS_FUZZ)
    foreach(source ${fuzzers})
      get_filename_component(target ${source} NAME_WE)
      add_executable(${target} ${source})
      add_dependencies(suite ${target})
      target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR})
      target_link_libraries(${target} PRIVATE impetus_${NAME})
      target_link_options(${target} PRIVATE -fsanitize=fuzzer)
    endforeach()
  endif()
endfunction()


add_compile_options(-Wall -Wextra -Wno-unused-parameter -Werror=return-type -Werror=unused-result)
# Bit-equal results between kernels are a rule of this project: the compiler may not contract or
# reassociate floating point on its own. Kernels say fma where they mean it.
add_compile_options(-ffp-contract=off)
add_compile_options("SHELL:-Xclang -fno-pch-timestamp")
if(IMPETUS_SANITIZE)
  # Fast to build, and with assertions: what a sanitizer looks for needs no more.
  set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O1")
  add_compile_options(-fsanitize=${IMPETUS_SANITIZE} -fno-omit-frame-pointer -gline-tables-only -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${IMPETUS_SANITIZE})
endif()
if(IMPETUS_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()
if(NOT APPLE)
  find_program(IMPETUS_LLD NAMES ld.lld-19 ld.lld)
  if(IMPETUS_LLD)
    add_link_options(-fuse-ld=${IMPETUS_LLD})
  endif()
  add_link_options(LINKER:--build-id=sha1)  # what was measured is kept under it
endif()
