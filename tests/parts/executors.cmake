# Executors: without LibTorch the files, boxes and batches; with it models, training, and the two children as processes.
if(TARGET gpuq_exec_base)
  gpuq_test(exec_base LAYER unit SOURCES unit/exec_images_test.cpp unit/exec_files_test.cpp unit/exec_batcher_test.cpp LINK gpuq_exec_base gpuq_image)
endif()
if(TARGET gpuq_executors)
  # The one object of the tests that sees LibTorch; the rest speaks our own headers.
  add_library(exec_scripts OBJECT unit/exec_scripts.cpp)
  target_link_libraries(exec_scripts PRIVATE gpuq_options LibTorch::cpu)
  gpuq_test(exec_model LAYER unit SOURCES unit/exec_model_test.cpp $<TARGET_OBJECTS:exec_scripts> LINK gpuq_executors LibTorch::cpu)
  gpuq_test(exec_training LAYER unit SOURCES unit/exec_training_test.cpp LINK gpuq_executors gpuq_image TIMEOUT 300)
  gpuq_test(exec_children LAYER integration SOURCES integration/exec_children_test.cpp $<TARGET_OBJECTS:exec_scripts>
    LINK gpuq_child gpuq_exec_base gpuq_image LibTorch::cpu TIMEOUT 300)
  if(TARGET exec_children)
    target_compile_definitions(exec_children PRIVATE GPUQ_BIN_DIR="${CMAKE_RUNTIME_OUTPUT_DIRECTORY}")
    add_dependencies(exec_children gpuq-modelhost gpuq-trainer)
  endif()
endif()
