# The worker's parts: child protocol, session, runtime; then the real gpuq-worker against the real broker.
if(TARGET gpuq_child)
  gpuq_test(child_frame LAYER unit SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/unit/child_frame.cpp LINK gpuq_child)
  gpuq_program(gpuq_fake_child SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/fakes/child.cpp LINK gpuq_child)
  set_target_properties(gpuq_fake_child PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
endif()
if(TARGET gpuq_session)
  gpuq_test(session_story LAYER unit
    SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/unit/session_link.cpp ${CMAKE_CURRENT_SOURCE_DIR}/unit/session_jobs.cpp
            ${CMAKE_CURRENT_SOURCE_DIR}/unit/session_journal.cpp
    LINK gpuq_session)
endif()
if(TARGET gpuq_worker)
  gpuq_test(runtime_parts LAYER unit
    SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/unit/runtime_parts.cpp ${CMAKE_CURRENT_SOURCE_DIR}/unit/runtime_devices.cpp
            ${CMAKE_CURRENT_SOURCE_DIR}/unit/runtime_journal.cpp
    LINK gpuq_worker)
  if(BUILD_TESTING)
    target_compile_definitions(runtime_parts PRIVATE GPUQ_FAKE_NVML="$<TARGET_FILE:gpuq_fake_nvml>")
    add_dependencies(runtime_parts gpuq_fake_nvml)
  endif()
endif()
if(TARGET gpuq_worker AND TARGET gpuq_broker_harness)
  find_package(OpenSSL REQUIRED)
  foreach(test integration/worker_life_test integration/worker_memory_test integration/worker_children_test integration/worker_orders_test integration/worker_shares_test chaos/worker_death_test)
    get_filename_component(name ${test} NAME)
    get_filename_component(layer ${test} DIRECTORY)
    gpuq_test(${name} LAYER ${layer} TIMEOUT 120 SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/${test}.cpp LINK gpuq_broker_harness OpenSSL::Crypto)
    if(BUILD_TESTING)
      target_compile_definitions(${name} PRIVATE GPUQ_WORKER_PROGRAM="$<TARGET_FILE:gpuq-worker>" GPUQ_FAKE_CHILD="$<TARGET_FILE:gpuq_fake_child>")
      add_dependencies(${name} gpuq-worker gpuq_fake_child)
    endif()
  endforeach()
  if(BUILD_TESTING)
    target_compile_definitions(worker_memory_test PRIVATE GPUQ_FAKE_NVML="$<TARGET_FILE:gpuq_fake_nvml>")
    add_dependencies(worker_memory_test gpuq_fake_nvml)
  endif()
endif()
