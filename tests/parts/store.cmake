# Store: conformance on memory and on a real redis-server, protocol without sockets, chaos with both.
if(TARGET gpuq_store)
  gpuq_test(store_conformance_test LAYER conformance SOURCES conformance/store_conformance_test.cpp LINK gpuq_store)
endif()
