// doctor.cpp - what is missing or wrong on this machine. Changes nothing but a scratch file it removes. Each finding: what, why,
// the exact fix. Exit 1 when one is red.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>
#include <fcntl.h>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "client/cli/cli.h"
#include "client/cli/doctor.h"
#include "client/cli/ports.h"
#include "client/cli/programs.h"
#include "client/cli/selectors.h"
#include "client/cli/text.h"
#include "client/lib/version.h"
#include "common/net/keys.h"

namespace gq::cli {

namespace {

namespace fs = std::filesystem;

Finding good(std::string name, std::string what) { return {std::move(name), Finding::ok, std::move(what), "", ""}; }

std::vector<std::string> lines_of(const std::string& command) {
  std::array<char, 512> buffer{};
  FILE* pipe = ::popen(command.c_str(), "re");
  if (pipe == nullptr) return {};
  std::vector<std::string> lines;
  while (std::fgets(buffer.data(), static_cast<int>(buffer.size()), pipe) != nullptr) {
    std::string& line = lines.emplace_back(buffer.data());
    while (!line.empty() && (line.back() == '\n' || line.back() == '\r')) line.pop_back();
  }
  ::pclose(pipe);
  return lines;
}
std::string first_line_of(const std::string& command) {
  const auto lines = lines_of(command);
  return lines.empty() ? std::string() : lines[0];
}

Finding redis_server() {
  const std::string path = find_program("redis-server");
  if (path.empty())
    return {"redis", Finding::red, "redis-server is not installed", "the broker keeps jobs in it, as its own child", "sudo apt-get install redis-server   (or gpuq-broker --redis redis://HOST)"};
  const std::string version = first_line_of("'" + path + "' --version 2>/dev/null");
  const auto at = version.find("v=");
  const int major = at == std::string::npos ? 0 : std::atoi(version.c_str() + at + 2);
  if (major != 0 && major < 6) return {"redis", Finding::red, path + " is too old: " + version, "gpuq needs Redis 6.2 or newer", "sudo apt-get install redis-server"};
  return good("redis", path + (at == std::string::npos ? "" : "  " + version.substr(at + 2, version.find(' ', at) - at - 2)));
}

void programs(std::vector<Finding>& out) {
  struct Wanted { const char* name; bool needed; const char* why; };
  for (const Wanted& w : {Wanted{"gpuq-broker", true, "without it there is no queue on this machine"}, Wanted{"gpuq-worker", true, "without it this machine runs no jobs"},
                          Wanted{"gpuq-modelhost", false, "detect and infer jobs need it here"}, Wanted{"gpuq-trainer", false, "built-in training jobs need it here"}}) {
    const std::string path = find_program(w.name);
    if (!path.empty()) out.push_back(good(w.name, path));
    else out.push_back({w.name, w.needed ? Finding::red : Finding::warn, std::string(w.name) + " was not found beside gpuq or in PATH", w.why,
                        w.needed ? "./dev build" : "./dev build   (it fetches LibTorch; GPUQ_TORCH=none leaves these two out)"});
  }
}

void torch(std::vector<Finding>& out) {
  const std::string host = find_program("gpuq-modelhost");
  if (host.empty()) return;
  const std::string missing = first_line_of("ldd '" + host + "' 2>/dev/null | grep 'not found'");
  if (missing.empty()) out.push_back(good("libtorch", "the libraries of gpuq-modelhost are all found"));
  else out.push_back({"libtorch", Finding::red, "gpuq-modelhost cannot load:" + missing, "detect, infer and training fail on this machine", "./dev build, or put LibTorch's lib folder into LD_LIBRARY_PATH"});
}

/// Of a machine with a card: whether the executors can use it. The card alone is not enough, they need their plug-in and CUDA's libraries.
void cuda(std::vector<Finding>& out) {
  const std::string host = find_program("gpuq-modelhost");
  if (host.empty()) return;
  const auto said = lines_of("'" + host + "' --which 2>&1");
  if (!said.empty() && said[0].starts_with("cuda ")) return out.push_back(good("cuda", "gpuq-modelhost uses " + said[0].substr(5)));
  const auto why = std::find_if(said.begin(), said.end(), [](const std::string& line) { return line.starts_with("no CUDA: "); });
  out.push_back({"cuda", Finding::red, "gpuq-modelhost cannot use the card: " + (why != said.end() ? why->substr(9) : said.empty() ? "it says nothing" : said[0]),
                 "detect, infer and train.detector fail on it", "GPUQ_CUDA=1 ./dev build   (it fetches CUDA's compiler and libraries); gpuq-worker --devices cpu goes on without"});
}

/// How many cards the driver shows, 0 with what is wrong in `out`.
unsigned devices(std::vector<Finding>& out) {
  const auto none = [&](Finding finding) {
    out.push_back(std::move(finding));
    return 0U;
  };
  const char* library = std::getenv("GPUQ_NVML");
  void* nvml = ::dlopen(library != nullptr && *library != '\0' ? library : "libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  if (nvml == nullptr) return none({"nvml", Finding::warn, "no NVIDIA driver (libnvidia-ml.so.1 does not load)", "this machine works on its CPU", "nothing to do without a card; with one: install the driver, check with nvidia-smi"});
  using Init = int (*)();
  using Count = int (*)(unsigned*);
  const auto init = reinterpret_cast<Init>(::dlsym(nvml, "nvmlInit_v2"));
  const auto count = reinterpret_cast<Count>(::dlsym(nvml, "nvmlDeviceGetCount_v2"));
  const auto shutdown = reinterpret_cast<Init>(::dlsym(nvml, "nvmlShutdown"));
  unsigned devices_found = 0;
  const int code = init == nullptr ? -1 : init();
  if (code != 0 || count == nullptr || count(&devices_found) != 0) {
    ::dlclose(nvml);
    return none({"nvml", Finding::red, "the NVIDIA driver is installed but does not answer (NVML code " + std::to_string(code) + ")", "no device of this machine can be used", "nvidia-smi says why; often the driver was updated: reboot, or in a container start it with --gpus all"});
  }
  if (shutdown != nullptr) shutdown();
  ::dlclose(nvml);
  if (devices_found == 0) return none({"nvml", Finding::warn, "the driver works but shows no device", "this machine works on its CPU", "check NVIDIA_VISIBLE_DEVICES and the container's --gpus"});
  out.push_back(good("nvml", std::to_string(devices_found) + (devices_found == 1 ? " device" : " devices")));
  return devices_found;
}

void keys(Cli& cli, std::vector<Finding>& out, bool& have_access) {
  const std::string file = cli.globals.access_file.empty() ? net::default_access_path(net::Role::client) : cli.globals.access_file;
  auto access = net::read_access_file(file);
  if (access) {
    have_access = true;
    out.push_back(good("access", file + "  " + std::string(net::to_string(access->role)) + " " + access->name + " at " + access->broker));
  } else if (cli.globals.insecure) {
    have_access = true;
    out.push_back({"access", Finding::warn, "--insecure: no key, no encryption", "anybody on this machine may submit", "use keys: gpuq keys issue --role client --name NAME"});
  } else {
    out.push_back({"access", Finding::red, access.error().what, "without an access file the broker does not let us in", access.error().next.empty() ? "gpuq up, or: gpuq keys issue --role client --name NAME --out FILE" : access.error().next});
  }
  const std::string dir = std::getenv("GPUQ_KEYS") != nullptr ? std::getenv("GPUQ_KEYS") : state_dir() + "/keys";
  std::error_code error;
  if (!fs::exists(dir + "/server.json", error)) return;   // no broker lives here
  struct stat status {};
  if (::stat((dir + "/server.json").c_str(), &status) == 0 && (status.st_mode & 0077U) != 0)
    out.push_back({"keys", Finding::red, dir + "/server.json is readable by others", "whoever reads it can pretend to be the broker", "chmod 600 " + dir + "/server.json; chmod 700 " + dir});
  else if (auto allowed = net::keys_list(dir)) {
    const std::int64_t now = wall_now_ms();
    const auto expired = std::count_if(allowed->begin(), allowed->end(), [&](const net::AllowedKey& k) { return k.expires.ms != 0 && k.expires.ms < now; });
    out.push_back(good("keys", dir + "  " + std::to_string(allowed->size()) + " may enter" + (expired > 0 ? ", " + std::to_string(expired) + " expired" : "")));
  } else {
    out.push_back({"keys", Finding::red, allowed.error().what, "the broker cannot tell who may enter", allowed.error().next});
  }
}

void broker(Cli& cli, std::vector<Finding>& out) {
  cli.globals.timeout = std::min(cli.globals.timeout, std::chrono::milliseconds(5000));
  cli.globals.connect_timeout = std::min(cli.globals.connect_timeout, std::chrono::milliseconds(3000));
  try {
    const auto begin = std::chrono::steady_clock::now();
    const gpuq::Top top = cli.client().top();
    const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - begin).count();
    out.push_back(good("broker", "gpuq " + top.broker_version + " answers in " + std::to_string(ms) + " ms, store " + top.store));
    if (top.broker_version != client::kVersion)
      out.push_back({"version", Finding::warn, std::string("the broker is ") + top.broker_version + ", this gpuq is " + client::kVersion, "they understand each other, but not every new option", "update the older one"});
    if (top.store.find("down") != std::string::npos) out.push_back({"store", Finding::red, "the broker's store is away: " + top.store, "no new job is accepted", "look at the broker's log"});
    if (top.commit_p99_ms > 50) out.push_back({"commit", Finding::warn, "commits take " + std::to_string(static_cast<int>(top.commit_p99_ms)) + " ms at p99", "every submit waits for the disk", "put the data directory on a faster disk"});
    const auto workers = cli.client().workers();
    if (workers.empty()) out.push_back({"workers", Finding::warn, "no worker is connected", "jobs wait", "gpuq-worker --access-file worker.json"});
    else out.push_back(good("workers", std::to_string(workers.size()) + " connected"));
    std::string other;
    for (const gpuq::WorkerStatus& w : workers)
      if (w.version != top.broker_version) other += (other.empty() ? "" : ", ") + w.name + " " + w.version;
    if (!other.empty()) out.push_back({"worker version", Finding::warn, "other versions than the broker's " + top.broker_version + ": " + other.substr(0, 200), "new options of one side are unknown to the other", "update them; a drained worker loses nothing: gpuq drain NAME"});
  } catch (const gpuq::Error& error) {
    out.push_back({"broker", Finding::red, std::string("[") + error.code() + "] " + error.what(), "nothing can be submitted from here", error.next()});
  }
}

Finding disk(const std::string& dir) {
  std::error_code error;
  fs::path existing = dir;
  while (!existing.empty() && !fs::exists(existing, error) && existing.has_parent_path() && existing != existing.parent_path()) existing = existing.parent_path();
  struct statvfs room {};
  if (::statvfs(existing.c_str(), &room) != 0) return {"disk", Finding::red, "cannot look at " + existing.string(), "the data directory must be usable", "gpuq up --data-dir DIR"};
  const std::uint64_t free_bytes = std::uint64_t{room.f_bavail} * room.f_frsize;
  const std::string what = bytes_text(free_bytes) + " free in " + existing.string();
  if (free_bytes < (1ULL << 30U)) return {"disk", Finding::red, "only " + what, "with a full disk no job is accepted", "free some room, or --data-dir on another disk"};
  if (free_bytes < (10ULL << 30U)) return {"disk", Finding::warn, what, "models, checkpoints and results need room", "free some room, or --data-dir on another disk"};
  return good("disk", what);
}

Finding sync_time(const std::string& dir) {
  std::error_code error;
  fs::path folder = dir;
  while (!folder.empty() && !fs::exists(folder, error) && folder != folder.parent_path()) folder = folder.parent_path();
  std::string path = (folder / "gpuq-doctor-XXXXXX").string();
  const int fd = ::mkostemp(path.data(), O_CLOEXEC);
  if (fd < 0) return {"fsync", Finding::warn, "cannot write in " + folder.string(), "so its fdatasync time is not known", "gpuq doctor as the user that runs the broker"};
  std::vector<double> times;
  const std::array<char, 512> block{};
  for (int i = 0; i < 40; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    const bool ok = ::write(fd, block.data(), block.size()) == static_cast<ssize_t>(block.size()) && ::fdatasync(fd) == 0;
    if (!ok) break;
    times.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count());
  }
  ::close(fd);
  ::unlink(path.c_str());
  if (times.empty()) return {"fsync", Finding::red, "fdatasync fails in " + folder.string(), "nothing can be kept", "use another disk"};
  std::sort(times.begin(), times.end());
  char text[96];
  std::snprintf(text, sizeof text, "fdatasync p50 %.2f ms, p95 %.2f ms", times[times.size() / 2], times[times.size() * 95 / 100]);
  if (times[times.size() / 2] > 10) return {"fsync", Finding::warn, text, "every submit waits for one: a lone submit takes at least that long", "a disk with a power-safe cache, or an SSD"};
  return good("fsync", text);
}

/// Free, or held by a broker of ours; anything else keeps the next broker from starting.
void ports(std::vector<Finding>& out) {
  const std::vector<std::uint16_t> wanted{7700, 7701, 7702};
  std::string ours;
  bool foreign = false;
  for (const Listener& l : listeners(wanted)) {
    const std::string port = std::to_string(l.port);
    if (l.program.starts_with("gpuq-broker")) {
      ours += (ours.empty() ? "" : ", ") + port + " by gpuq-broker (pid " + std::to_string(l.pid) + ")";
      continue;
    }
    foreign = true;
    const std::string who = l.program.empty() ? "another user's program" : l.program + " (pid " + std::to_string(l.pid) + ")";
    out.push_back({"ports", Finding::warn, "port " + port + " is held by " + who, l.port == 7702 ? "a broker here cannot serve its metrics and pages there" : "a broker with its usual ports cannot start on this machine",
                   "stop it, or gpuq up --port 7710   (a broker alone: --listen-clients, --listen-workers, --listen-http)"});
  }
  if (!ours.empty()) out.push_back(good("ports", "held: " + ours));
  else if (!foreign) out.push_back(good("ports", "7700-7702 are free"));
}

Finding open_files() {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  const std::string what = "open files: " + std::to_string(limit.rlim_cur) + " (hard " + std::to_string(limit.rlim_max) + ")";
  if (limit.rlim_max < 1024) return {"nofile", Finding::red, what, "each worker and client needs one on the broker", "ulimit -n 65536, or LimitNOFILE=65536 in the unit"};
  if (limit.rlim_max < 16'384) return {"nofile", Finding::warn, what, "each worker and client needs one on the broker", "for more than a few thousand peers: LimitNOFILE=65536"};
  return good("nofile", what);
}

std::vector<Finding> examine(Cli& cli, const std::string& dir, bool quick) {
  std::vector<Finding> out;
  out.push_back(redis_server());
  programs(out);
  torch(out);
  if (devices(out) > 0) cuda(out);
  bool have_access = false;
  keys(cli, out, have_access);
  if (have_access && !quick) broker(cli, out);
  ports(out);
  out.push_back(disk(dir));
  out.push_back(sync_time(dir));
  out.push_back(open_files());
  return out;
}

}  // namespace

int print_findings(Cli& cli, const std::vector<Finding>& findings) {
  static constexpr const char* kWords[] = {"ok", "warn", "red"};
  const bool red = std::any_of(findings.begin(), findings.end(), [](const Finding& f) { return f.grade == Finding::red; });
  if (cli.is_json()) {
    std::vector<nlohmann::ordered_json> items;
    for (const Finding& f : findings) items.push_back({{"check", f.name}, {"grade", kWords[f.grade]}, {"what", f.what}, {"why", f.why}, {"fix", f.fix}});
    print_json(cli.io.out, cli.format() == Format::jsonl, "findings", items);
    return red ? 1 : 0;
  }
  static constexpr const char* kColours[] = {"\x1b[32m", "\x1b[33m", "\x1b[31m"};
  for (const Finding& f : findings) {
    const std::string word = kWords[f.grade];
    const std::string name = f.name + std::string(f.name.size() < 14 ? 14 - f.name.size() : 0, ' ');
    cli.io.out << (cli.colour() ? kColours[f.grade] : "") << word << (cli.colour() ? "\x1b[0m" : "") << std::string(6 - word.size(), ' ') << name << "  " << f.what << '\n';
    if (f.grade == Finding::ok) continue;
    if (!f.why.empty()) cli.io.out << "                      why: " << f.why << '\n';
    if (!f.fix.empty()) cli.io.out << "                      fix: " << f.fix << '\n';
  }
  return red ? 1 : 0;
}

void add_doctor(CLI::App& app, Cli& cli) {
  struct Arguments { std::string dir; bool quick = false; };
  auto a = std::make_shared<Arguments>();
  CLI::App* doctor = app.add_subcommand("doctor", "what is missing or wrong on this machine, and how to mend it; exit 1 when something must be");
  doctor->add_option("--data-dir", a->dir, "where the broker's data lies or will lie (~/.local/state/gpuq)")->option_text("DIR");
  doctor->add_flag("--local", a->quick, "do not ask the broker");
  doctor->callback([&cli, a] { cli.action = [&cli, a] { return print_findings(cli, examine(cli, a->dir.empty() ? state_dir() : a->dir, a->quick)); }; });
}

}  // namespace gq::cli
