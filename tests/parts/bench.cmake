# gpuq-bench: only where the whole system is built.
if(TARGET gpuq_client AND TARGET gpuq_process AND TARGET gpuq_store AND TARGET gpuq_core AND EXISTS ${CMAKE_SOURCE_DIR}/tests/bench/raw_redis.cpp)
  find_package(CLI11 REQUIRED)
  gpuq_program(gpuq-bench SOURCES ${CMAKE_SOURCE_DIR}/tests/bench/queue_bench.cpp ${CMAKE_SOURCE_DIR}/tests/bench/idle_worker.cpp
               ${CMAKE_SOURCE_DIR}/tests/bench/redis_info.cpp ${CMAKE_SOURCE_DIR}/tests/bench/raw_redis.cpp
               LINK gpuq_client gpuq_process gpuq_net gpuq_wire gpuq_store gpuq_core CLI11::CLI11)
endif()
# gpuq-scheduler-bench: the core alone.
if(TARGET gpuq_core)
  gpuq_program(gpuq-scheduler-bench SOURCES ${CMAKE_SOURCE_DIR}/tests/bench/scheduler_bench.cpp LINK gpuq_core)
endif()
