if(TARGET gpuq_image)
  gpuq_test(image_test LAYER unit SOURCES ${CMAKE_SOURCE_DIR}/tests/unit/image_test.cpp LINK gpuq_image)
endif()
