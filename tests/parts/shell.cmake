# The broker's shell: pure parts alone, then the real process with real sockets and a real Redis.
if(TARGET gpuq_broker AND TARGET gpuq_core)
  gpuq_test(shell_test LAYER unit
    SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/unit/shell_commit_gate_test.cpp ${CMAKE_CURRENT_SOURCE_DIR}/unit/shell_log_desk_test.cpp ${CMAKE_CURRENT_SOURCE_DIR}/unit/shell_model_condition_test.cpp
            ${CMAKE_CURRENT_SOURCE_DIR}/unit/shell_translate_test.cpp
    LINK gpuq_broker)

  find_package(nlohmann_json REQUIRED)
  find_package(PkgConfig REQUIRED)
  pkg_check_modules(libzmq REQUIRED IMPORTED_TARGET libzmq)
  add_library(gpuq_broker_harness STATIC EXCLUDE_FROM_ALL ${CMAKE_CURRENT_SOURCE_DIR}/integration/broker_harness.cpp)
  target_link_libraries(gpuq_broker_harness PUBLIC gpuq_options gpuq_store gpuq_net gpuq_wire gpuq_config gpuq_vocabulary GTest::gtest PRIVATE nlohmann_json::nlohmann_json)
  target_compile_definitions(gpuq_broker_harness PRIVATE GPUQ_BROKER_PROGRAM="$<TARGET_FILE:gpuq-broker>")
  add_dependencies(gpuq_broker_harness gpuq-broker)

  gpuq_test(broker_life_test LAYER integration TIMEOUT 120
    SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/integration/broker_life_test.cpp
    LINK gpuq_broker_harness)
  gpuq_test(broker_hostile_test LAYER integration TIMEOUT 120
    SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/integration/broker_hostile_test.cpp
    LINK gpuq_broker_harness PkgConfig::libzmq)
  gpuq_test(broker_durable_test LAYER integration TIMEOUT 120
    SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/integration/broker_durable_test.cpp
    LINK gpuq_broker_harness)
  gpuq_test(broker_reload_test LAYER integration TIMEOUT 120
    SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/integration/broker_reload_test.cpp
    LINK gpuq_broker_harness gpuq_broker)
  gpuq_test(broker_commands_test LAYER integration TIMEOUT 120
    SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/integration/broker_commands_test.cpp
    LINK gpuq_broker_harness)
  gpuq_test(broker_crash_points_test LAYER chaos TIMEOUT 120
    SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/chaos/broker_crash_points_test.cpp
    LINK gpuq_broker_harness gpuq_broker)

  # Not a test: prints what a life costs. Build it with the release preset.
  add_executable(broker_load EXCLUDE_FROM_ALL ${CMAKE_CURRENT_SOURCE_DIR}/bench/broker_load.cpp)
  target_link_libraries(broker_load PRIVATE gpuq_options gpuq_net gpuq_wire gpuq_config gpuq_vocabulary nlohmann_json::nlohmann_json)
  target_compile_definitions(broker_load PRIVATE GPUQ_BROKER_PROGRAM="$<TARGET_FILE:gpuq-broker>")
  add_dependencies(broker_load gpuq-broker)
endif()
