# The broker's shell: pure parts alone, then the real process with real sockets and a real Redis.
if(TARGET gpuq_broker AND TARGET gpuq_core)
  gpuq_test(shell_test LAYER unit
    SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/unit/shell_commit_gate_test.cpp ${CMAKE_CURRENT_SOURCE_DIR}/unit/shell_log_desk_test.cpp
            ${CMAKE_CURRENT_SOURCE_DIR}/unit/shell_translate_test.cpp
    LINK gpuq_broker)

  find_package(nlohmann_json REQUIRED)
  add_library(gpuq_broker_harness STATIC EXCLUDE_FROM_ALL ${CMAKE_CURRENT_SOURCE_DIR}/integration/broker_harness.cpp)
  target_link_libraries(gpuq_broker_harness PUBLIC gpuq_options gpuq_net gpuq_wire gpuq_config gpuq_vocabulary GTest::gtest PRIVATE nlohmann_json::nlohmann_json)
  target_compile_definitions(gpuq_broker_harness PRIVATE GPUQ_BROKER_PROGRAM="$<TARGET_FILE:gpuq-broker>")
  add_dependencies(gpuq_broker_harness gpuq-broker)

  gpuq_test(broker_life_test LAYER integration TIMEOUT 120
    SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/integration/broker_life_test.cpp
    LINK gpuq_broker_harness)
endif()
