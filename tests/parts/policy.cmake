# gpuq.toml: its text, its windows, and a broker that follows it.
set(dir ${CMAKE_CURRENT_LIST_DIR}/..)
if(TARGET gpuq_policy)
  find_package(date REQUIRED)
  gpuq_test(policy_unit LAYER unit LINK gpuq_policy date::date-tz
    SOURCES ${dir}/unit/policy_windows.cpp ${dir}/unit/policy_file.cpp ${dir}/unit/policy_source.cpp ${dir}/unit/policy_profiles.cpp)
  if(TARGET policy_unit)
    target_compile_definitions(policy_unit PRIVATE GPUQ_PROFILES="${CMAKE_SOURCE_DIR}/deploy/profiles")
  endif()
  find_package(rapidcheck CONFIG REQUIRED)
  gpuq_test(policy_windows LAYER property SOURCES ${dir}/property/policy_windows.cpp LINK gpuq_policy rapidcheck rapidcheck_gtest)
endif()
if(TARGET gpuq_broker AND TARGET gpuq_policy)   # the harness is declared by shell.cmake
  gpuq_test(broker_policy_test LAYER integration TIMEOUT 120 SOURCES ${dir}/integration/broker_policy_test.cpp LINK gpuq_broker_harness)
  if(TARGET broker_policy_test)
    target_compile_definitions(broker_policy_test PRIVATE GPUQ_PROFILES="${CMAKE_SOURCE_DIR}/deploy/profiles")
  endif()
endif()
