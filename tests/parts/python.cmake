# Tests written in Python, run by pytest in the environment that ./dev makes (tests/python/python.sh finds it).
#
# gpuq_python_test(NAME LAYER unit|integration|chaos|e2e|install FILE tests/…/x.py [TIMEOUT s] [SERIAL] [ARGS …]): one file, one ctest
# test LAYER/python_NAME. The file finds our programs in $GPUQ_BIN_DIR, the package in $PYTHONPATH, the sources in $GPUQ_SOURCE_DIR.
function(gpuq_python_test name)
  if(NOT BUILD_TESTING)
    return()
  endif()
  cmake_parse_arguments(arg "SERIAL" "LAYER;TIMEOUT;FILE" "ARGS" ${ARGN})
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 120)
  endif()
  set(test ${arg_LAYER}/python_${name})
  add_test(NAME ${test} COMMAND ${CMAKE_SOURCE_DIR}/tests/python/python.sh -B -m pytest -q -p no:cacheprovider --tb=short
    --rootdir ${CMAKE_SOURCE_DIR}/tests/python ${CMAKE_SOURCE_DIR}/tests/${arg_FILE} ${arg_ARGS})
  set_tests_properties(${test} PROPERTIES LABELS ${arg_LAYER} TIMEOUT ${arg_TIMEOUT} ENVIRONMENT
    "GPUQ_BIN_DIR=${CMAKE_BINARY_DIR}/bin;GPUQ_SOURCE_DIR=${CMAKE_SOURCE_DIR};PYTHONPATH=${CMAKE_SOURCE_DIR}/client/python:${CMAKE_SOURCE_DIR}/tests/python")
  if(arg_SERIAL)
    set_tests_properties(${test} PROPERTIES RUN_SERIAL TRUE)
  endif()
endfunction()

gpuq_python_test(environment LAYER unit FILE python/unit/environment_test.py)
gpuq_python_test(wire LAYER unit FILE python/unit/wire_test.py)
gpuq_python_test(client LAYER unit FILE python/unit/client_test.py)
gpuq_python_test(scripted_broker LAYER integration FILE python/integration/scripted_broker_test.py)
if(TARGET gpuq AND TARGET gpuq-broker AND TARGET gpuq-worker)
  gpuq_python_test(conversation LAYER integration FILE python/integration/conversation_test.py TIMEOUT 300)
  gpuq_python_test(broker_dies LAYER chaos FILE python/chaos/broker_dies_test.py TIMEOUT 300)
endif()
gpuq_python_test(pip_install LAYER install FILE python/install/pip_install_test.py)
if(TARGET gpuq AND TARGET gpuq-broker AND TARGET gpuq-worker)
  gpuq_python_test(fastapi LAYER e2e FILE python/e2e/fastapi_test.py TIMEOUT 300)
endif()
gpuq_python_test(serve LAYER unit FILE python/unit/serve_test.py)
gpuq_python_test(entries LAYER unit FILE python/unit/entries_test.py)
if(TARGET gpuq-http AND TARGET gpuq-broker AND TARGET gpuq-worker)
  gpuq_python_test(http LAYER e2e FILE python/e2e/http_test.py TIMEOUT 300)
endif()
