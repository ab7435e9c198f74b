# Packing: the pure code, and the replay of traces.
if(TARGET gpuq_core)
  gpuq_test(core_packing LAYER unit LINK gpuq_core SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/unit/core_packing.cpp ${CMAKE_CURRENT_SOURCE_DIR}/unit/core_tenants.cpp)
  gpuq_test(core_packing_property LAYER property LINK gpuq_core SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/property/packing.cpp)
  gpuq_library(gpuq_openb SOURCES sim/openb.cpp sim/openb_main.cpp LINK gpuq_core)
  gpuq_test(openb LAYER sim LINK gpuq_openb SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/sim/openb_test.cpp)
endif()
