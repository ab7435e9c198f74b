#include "client/cli/ports.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

namespace gq::cli {
namespace {

namespace fs = std::filesystem;

struct Row { std::uint16_t port{}; bool everywhere{}; };

/// Listening sockets by inode: "sl local_address rem_address st … inode", addresses in hexadecimal.
void read_table(const char* path, const std::vector<std::uint16_t>& ports, std::map<std::string, Row>& by_inode) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);   // the heading
  while (std::getline(in, line)) {
    std::istringstream words(line);
    std::string number, local, remote, state, queues, timer, retransmits, user, timeout, inode;
    words >> number >> local >> remote >> state >> queues >> timer >> retransmits >> user >> timeout >> inode;
    const std::size_t colon = local.rfind(':');
    if (state != "0A" || colon == std::string::npos) continue;
    const auto port = static_cast<std::uint16_t>(std::stoul(local.substr(colon + 1), nullptr, 16));
    if (std::find(ports.begin(), ports.end(), port) == ports.end()) continue;
    by_inode[inode] = {port, local.find_first_not_of('0') == colon};
  }
}

}  // namespace

std::vector<Listener> listeners(const std::vector<std::uint16_t>& ports) {
  std::map<std::string, Row> by_inode;
  read_table("/proc/net/tcp", ports, by_inode);
  read_table("/proc/net/tcp6", ports, by_inode);
  std::map<std::uint16_t, Listener> found;
  for (const auto& [inode, row] : by_inode) {
    Listener& listener = found[row.port];
    listener.port = row.port;
    listener.everywhere = listener.everywhere || row.everywhere;
  }
  std::error_code ec;
  for (fs::directory_iterator it("/proc", ec), end; !by_inode.empty() && !ec && it != end; it.increment(ec)) {
    const std::string pid = it->path().filename().string();
    if (pid.empty() || pid.front() < '1' || pid.front() > '9') continue;
    std::error_code closed;   // another user's: its descriptors are not ours to see
    for (fs::directory_iterator fd(it->path() / "fd", closed), last; !closed && fd != last; fd.increment(closed)) {
      std::error_code gone;
      const std::string target = fs::read_symlink(fd->path(), gone).string();
      if (gone || !target.starts_with("socket:[")) continue;
      const auto row = by_inode.find(target.substr(8, target.size() - 9));
      if (row == by_inode.end()) continue;
      Listener& listener = found[row->second.port];
      listener.pid = static_cast<pid_t>(std::stol(pid));
      std::ifstream name(it->path() / "comm");
      std::getline(name, listener.program);
    }
  }
  std::vector<Listener> out;
  for (auto& [port, listener] : found) out.push_back(std::move(listener));
  return out;
}

}  // namespace gq::cli
