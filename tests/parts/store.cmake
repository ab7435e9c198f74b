# Store: conformance on memory and on a real redis-server, protocol without sockets, chaos with both.
if(TARGET gpuq_store)
  gpuq_test(store_conformance_test LAYER conformance SOURCES conformance/store_conformance_test.cpp LINK gpuq_store)
  gpuq_test(store_layout_test LAYER unit SOURCES unit/store_layout_test.cpp LINK gpuq_store)
  gpuq_test(store_protocol_test LAYER unit SOURCES unit/store_protocol_test.cpp LINK gpuq_store)
endif()
