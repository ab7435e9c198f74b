if(TARGET gpuq_core)
  set(dir ${CMAKE_CURRENT_LIST_DIR}/..)
  gpuq_test(core_unit LAYER unit LINK gpuq_core
    SOURCES ${dir}/unit/core_life.cpp ${dir}/unit/core_leases.cpp ${dir}/unit/core_races.cpp ${dir}/unit/core_devices.cpp ${dir}/unit/core_submit.cpp ${dir}/unit/core_commands.cpp ${dir}/unit/core_update.cpp ${dir}/unit/core_models.cpp ${dir}/unit/core_undurable.cpp)
  gpuq_test(core_policy LAYER unit LINK gpuq_core
    SOURCES ${dir}/unit/core_policy_ledger.cpp ${dir}/unit/core_policy_rules.cpp ${dir}/unit/core_policy_windows.cpp ${dir}/unit/core_explain.cpp)
  gpuq_test(core_preempt LAYER unit LINK gpuq_core
    SOURCES ${dir}/unit/core_preempt_life.cpp ${dir}/unit/core_preempt_choice.cpp ${dir}/unit/core_preempt_models.cpp ${dir}/unit/core_gang_story.cpp)
  find_path(GPUQ_RAPIDCHECK_INCLUDE rapidcheck.h)
  find_library(GPUQ_RAPIDCHECK_LIBRARY rapidcheck)
  if(GPUQ_RAPIDCHECK_INCLUDE AND GPUQ_RAPIDCHECK_LIBRARY)
    gpuq_test(core_property LAYER property LINK gpuq_core ${GPUQ_RAPIDCHECK_LIBRARY} SOURCES ${dir}/property/core_random.cpp ${CMAKE_CURRENT_SOURCE_DIR}/property/core_flat_map.cpp ${dir}/property/core_explain.cpp TIMEOUT 300)
    gpuq_test(core_preemption LAYER property LINK gpuq_core ${GPUQ_RAPIDCHECK_LIBRARY} SOURCES ${dir}/property/core_preemption.cpp TIMEOUT 300)
  endif()
  gpuq_program(core_bench SOURCES ${dir}/bench/core_bench.cpp LINK gpuq_core)   # by hand; measure with the release preset
endif()
