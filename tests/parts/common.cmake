# Tests of common/: vocabulary, wire, config, net.
if(TARGET gpuq_net)
  find_package(PkgConfig REQUIRED)
  pkg_check_modules(libzmq REQUIRED IMPORTED_TARGET libzmq)
  gpuq_test(net_ports LAYER integration SOURCES ${CMAKE_CURRENT_LIST_DIR}/../integration/net_ports.cpp LINK gpuq_net PkgConfig::libzmq)
  gpuq_test(net_keys LAYER integration SOURCES ${CMAKE_CURRENT_LIST_DIR}/../integration/net_keys.cpp LINK gpuq_net)
endif()
