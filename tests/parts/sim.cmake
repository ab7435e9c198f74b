# The simulator, its checkers and their tests.
if(TARGET gpuq_core AND TARGET gpuq_policy)
  find_package(date REQUIRED)
  gpuq_library(gpuq_checker SOURCES checker/findings.cpp checker/store_fold.cpp checker/history.cpp LINK gpuq_core)
  gpuq_library(gpuq_simulation
    SOURCES sim/world.cpp sim/broker.cpp sim/workers.cpp sim/runs.cpp sim/clients.cpp sim/operators.cpp sim/faults.cpp sim/play.cpp sim/cards.cpp
            sim/scenario.cpp sim/record.cpp sim/picture.cpp sim/scenario_main.cpp
    LINK gpuq_checker gpuq_core gpuq_policy PRIVATE_LINK date::date-tz)
  gpuq_program(gpuq-sim SOURCES sim/main.cpp LINK gpuq_simulation gpuq_openb)
endif()
if(TARGET gpuq_simulation)
  gpuq_test(checker LAYER sim SOURCES checker/checker_test.cpp LINK gpuq_checker)
  gpuq_test(seeds LAYER sim SOURCES sim/seeds_test.cpp LINK gpuq_simulation TIMEOUT 300)
  gpuq_test(scenario LAYER sim SOURCES sim/scenario_test.cpp LINK gpuq_simulation TIMEOUT 300)
  if(TARGET scenario)
    target_compile_definitions(scenario PRIVATE GPUQ_SCENARIOS="${CMAKE_CURRENT_SOURCE_DIR}/sim/scenarios")
  endif()
endif()
