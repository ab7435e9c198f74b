# The broker's shell: pure parts alone, then the real process with real sockets and a real Redis.
if(TARGET gpuq_broker AND TARGET gpuq_core)
  gpuq_test(shell_test LAYER unit
    SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/unit/shell_commit_gate_test.cpp ${CMAKE_CURRENT_SOURCE_DIR}/unit/shell_log_desk_test.cpp
            ${CMAKE_CURRENT_SOURCE_DIR}/unit/shell_translate_test.cpp
    LINK gpuq_broker)
endif()
