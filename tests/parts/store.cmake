# Store: conformance on memory and on a real redis-server, protocol without sockets, chaos with both.
if(TARGET gpuq_store)
  gpuq_test(store_conformance_test LAYER conformance SOURCES conformance/store_conformance_test.cpp LINK gpuq_store)
  gpuq_test(store_layout_test LAYER unit SOURCES unit/store_layout_test.cpp LINK gpuq_store)
  gpuq_test(store_protocol_test LAYER unit SOURCES unit/store_protocol_test.cpp LINK gpuq_store)
  gpuq_test(store_memory_test LAYER unit SOURCES unit/store_memory_test.cpp LINK gpuq_store)
  gpuq_test(store_links_test LAYER integration SOURCES integration/store_links_test.cpp LINK gpuq_store)
  gpuq_test(store_managed_test LAYER integration SOURCES integration/store_managed_test.cpp LINK gpuq_store)
  gpuq_test(store_blobs_test LAYER integration SOURCES integration/store_blobs_test.cpp LINK gpuq_store)
  gpuq_test(store_failover_test LAYER chaos TIMEOUT 120 SOURCES chaos/store_failover_test.cpp LINK gpuq_store)
  gpuq_test(store_chaos_test LAYER chaos SOURCES chaos/store_chaos_test.cpp LINK gpuq_store)

  # What Redis takes raw and through RedisStore; the library is linked by the queue bench too.
  add_library(gpuq_raw_redis STATIC bench/raw_redis.cpp)
  target_link_libraries(gpuq_raw_redis PUBLIC gpuq_options gpuq_store)
  add_executable(store_bench bench/store_bench.cpp)
  target_link_libraries(store_bench PRIVATE gpuq_raw_redis)
  set_target_properties(store_bench PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
endif()
