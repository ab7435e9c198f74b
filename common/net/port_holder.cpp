// port_holder.cpp - why a bind failed, and which process holds the port.
#include <dirent.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <zmq.hpp>

#include "common/net/user_id.h"

namespace gq::net {

namespace {

/// The inode of the socket that listens on `port`, from /proc/net/tcp and tcp6.
std::string listening_inode(unsigned port) {
  for (const char* table : {"/proc/net/tcp", "/proc/net/tcp6"}) {
    std::ifstream in(table);
    std::string line;
    std::getline(in, line);
    while (std::getline(in, line)) {
      std::istringstream fields(line);
      std::string slot, local, remote, state, queues, timer, retransmit, uid, timeout, inode;
      fields >> slot >> local >> remote >> state >> queues >> timer >> retransmit >> uid >> timeout >> inode;
      const std::size_t colon = local.rfind(':');
      if (state == "0A" && colon != std::string::npos && std::strtoul(local.c_str() + colon + 1, nullptr, 16) == port) return inode;
    }
  }
  return {};
}

/// "redis-server (pid 812)" of the process that has the socket open, as far as we may look.
std::string holder_of(const std::string& inode) {
  const std::string wanted = "socket:[" + inode + "]";
  DIR* proc = inode.empty() ? nullptr : opendir("/proc");
  if (proc == nullptr) return {};
  std::string found;
  while (const dirent* process = readdir(proc)) {
    const std::string pid = process->d_name;
    if (pid.find_first_not_of("0123456789") != std::string::npos) continue;
    const std::string folder = "/proc/" + pid + "/fd";
    DIR* fds = opendir(folder.c_str());
    if (fds == nullptr) continue;
    while (const dirent* fd = readdir(fds)) {
      char target[64];
      const ssize_t n = readlink((folder + "/" + fd->d_name).c_str(), target, sizeof target);
      if (n > 0 && std::string_view(target, static_cast<std::size_t>(n)) == wanted) {
        std::string name;
        std::ifstream comm("/proc/" + pid + "/comm");
        std::getline(comm, name);
        found = name + " (pid " + pid + ")";
        break;
      }
    }
    closedir(fds);
    if (!found.empty()) break;
  }
  closedir(proc);
  return found;
}

}  // namespace

Error bind_error(const std::string& endpoint, int error_number) {
  if (error_number == EADDRINUSE) {
    const std::size_t colon = endpoint.rfind(':');
    const unsigned port = static_cast<unsigned>(std::strtoul(endpoint.c_str() + (colon == std::string::npos ? 0 : colon + 1), nullptr, 10));
    const std::string who = port != 0 ? holder_of(listening_inode(port)) : std::string();
    return {Errc::port_in_use, endpoint + " is taken" + (who.empty() ? "" : " by " + who),
            who.empty() ? "see who has it: ss -ltnp 'sport = :" + std::to_string(port) + "'; or choose another port"
                        : "stop that process or choose another port"};
  }
  if (error_number == EADDRNOTAVAIL || error_number == ENODEV)
    return {Errc::usage, endpoint + " is no address of this machine", "bind tcp://0.0.0.0:PORT for all its addresses, see them with: ip -brief address"};
  if (error_number == EACCES)
    return {Errc::refused, "not allowed to listen on " + endpoint, "choose a port above 1023"};
  return {Errc::usage, "cannot listen on " + endpoint + ": " + zmq::error_t(error_number).what(), "an endpoint looks like tcp://127.0.0.1:7700"};
}

}  // namespace gq::net
