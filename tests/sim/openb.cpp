// openb.cpp - reading the trace, and the replay.
#include "tests/sim/openb.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <ctime>
#include <istream>
#include <map>
#include <random>

namespace gq::sim {

namespace {
using core::Packer;
using core::PackNode;
using core::PackTask;

/// A CSV with a header: rows are asked by column name, and every complaint says line and column.
class Table {
 public:
  Table(std::istream& in, std::string name) : in_(in), name_(std::move(name)) {}

  Result<void> open(const std::vector<std::string>& wanted) {
    if (!next_line()) return fail(Errc::bad_input, name_ + " is empty", "expected a header line with " + wanted.front());
    for (std::size_t i = 0; i < cells_.size(); ++i) column_.emplace(cells_[i], i);
    for (const std::string& w : wanted)
      if (!column_.contains(w)) return fail(Errc::bad_input, name_ + ", line 1: no column " + w, "take the file as the trace ships it");
    return {};
  }
  /// false = the end.
  Result<bool> row() {
    while (next_line()) {
      if (cells_.size() == 1 && cells_[0].empty()) continue;
      if (cells_.size() != column_.size())
        return fail(Errc::bad_input, name_ + ", line " + std::to_string(line_) + ": " + std::to_string(cells_.size()) + " columns, the header has " +
                                         std::to_string(column_.size()));
      return true;
    }
    return false;
  }
  [[nodiscard]] const std::string& text(const std::string& column) const { return cells_[column_.at(column)]; }
  [[nodiscard]] Result<std::int64_t> number(const std::string& column, std::int64_t most) const {
    const std::string& cell = text(column);
    std::int64_t value = -1;
    const auto [end, bad] = std::from_chars(cell.data(), cell.data() + cell.size(), value);
    if (bad != std::errc{} || end != cell.data() + cell.size() || value < 0)
      return fail(Errc::bad_input, where(column) + "'" + cell + "' is not a whole number from 0");
    if (value > most) return fail(Errc::bad_input, where(column) + cell + " is more than " + std::to_string(most));
    return value;
  }
  [[nodiscard]] std::string where(const std::string& column) const {
    return name_ + ", line " + std::to_string(line_) + ", column " + std::to_string(column_.at(column) + 1) + " (" + column + "): ";
  }

 private:
  bool next_line() {
    std::string line;
    if (!std::getline(in_, line)) return false;
    ++line_;
    if (!line.empty() && line.back() == '\r') line.pop_back();
    cells_.assign(1, {});
    bool quoted = false;
    for (const char c : line) {
      if (c == '"') quoted = !quoted;
      else if (c == ',' && !quoted) cells_.emplace_back();
      else cells_.back() += c;
    }
    return true;
  }
  std::istream& in_;
  std::string name_;
  std::size_t line_{};
  std::vector<std::string> cells_;
  std::map<std::string, std::size_t> column_;
};

constexpr std::int64_t kMost = INT64_C(1) << 40;

Result<void> read_nodes(std::istream& in, const std::string& name, OpenbTrace& trace, std::map<std::string, std::uint32_t>& models) {
  Table table(in, name);
  if (auto opened = table.open({"cpu_milli", "memory_mib", "gpu", "model"}); !opened) return opened;
  for (;;) {
    const auto more = table.row();
    if (!more) return tl::unexpected(more.error());
    if (!*more) break;
    const auto cpu = table.number("cpu_milli", kMost), memory = table.number("memory_mib", kMost), cards = table.number("gpu", 64);
    for (const auto* n : {&cpu, &memory, &cards})
      if (!*n) return tl::unexpected(n->error());
    const auto [model, is_new] = models.try_emplace(table.text("model"), static_cast<std::uint32_t>(models.size()));
    if (is_new && models.size() > 64) return fail(Errc::bad_input, table.where("model") + "more than 64 models of cards");
    trace.nodes.push_back({*cpu, *memory, model->second, std::vector<std::int64_t>(static_cast<std::size_t>(*cards), kCard)});
    trace.capacity += *cards * kCard;
  }
  if (trace.capacity == 0) return fail(Errc::bad_input, name + " names no card");
  return {};
}

Result<void> read_tasks(std::istream& in, const std::string& name, OpenbTrace& trace, const std::map<std::string, std::uint32_t>& models) {
  Table table(in, name);
  if (auto opened = table.open({"cpu_milli", "memory_mib", "num_gpu", "gpu_milli", "gpu_spec"}); !opened) return opened;
  std::int64_t demand = 0;
  for (;;) {
    const auto more = table.row();
    if (!more) return tl::unexpected(more.error());
    if (!*more) break;
    const auto cpu = table.number("cpu_milli", kMost), memory = table.number("memory_mib", kMost), cards = table.number("num_gpu", 64),
               share = table.number("gpu_milli", kCard);
    for (const auto* n : {&cpu, &memory, &cards, &share})
      if (!*n) return tl::unexpected(n->error());
    if (*cards > 0 && *share == 0) return fail(Errc::bad_input, table.where("gpu_milli") + "asks for cards, but for nothing of them");
    PackTask task{*cpu, *memory, static_cast<std::uint32_t>(*cards), *cards > 0 ? *share : 0, ~0ULL};
    if (const std::string& spec = table.text("gpu_spec"); !spec.empty()) {
      task.models = 0;
      for (std::size_t from = 0; from <= spec.size();) {
        const std::size_t to = std::min(spec.find('|', from), spec.size());
        if (const auto model = models.find(spec.substr(from, to - from)); model != models.end()) task.models |= std::uint64_t{1} << model->second;
        from = to + 1;
      }
    }
    trace.tasks.push_back(task);
    demand += *cards * *share;
  }
  if (demand == 0) return fail(Errc::bad_input, name + " asks for no card");
  return {};
}

/// [0, n), the same on every machine (the standard's distributions are not).
std::size_t below(std::mt19937_64& random, std::size_t n) { return static_cast<std::size_t>(random() % n); }

std::uint64_t mixed(std::uint64_t hash, std::uint64_t value) {
  hash ^= value + 0x9E3779B97F4A7C15ULL + (hash << 6U) + (hash >> 2U);
  return hash * 0xBF58476D1CE4E5B9ULL;
}
}  // namespace

Result<OpenbTrace> read_openb(std::istream& nodes, const std::string& nodes_name, std::istream& tasks, const std::string& tasks_name) {
  OpenbTrace trace;
  std::map<std::string, std::uint32_t> models;
  if (auto read = read_nodes(nodes, nodes_name, trace, models); !read) return tl::unexpected(read.error());
  if (auto read = read_tasks(tasks, tasks_name, trace, models); !read) return tl::unexpected(read.error());
  return trace;
}

OpenbResult replay_openb(const OpenbTrace& trace, core::PackPolicy policy, std::uint64_t seed, double tune) {
  const std::clock_t started = std::clock();
  std::mt19937_64 random(seed);
  std::vector<PackTask> tasks = trace.tasks;
  for (std::size_t i = tasks.size(); i > 1; --i) std::swap(tasks[i - 1], tasks[below(random, i)]);
  const auto wanted = static_cast<std::int64_t>(tune * static_cast<double>(trace.capacity));
  std::int64_t demand = 0;
  for (const PackTask& task : tasks) demand += task.devices * task.share;
  while (demand < wanted) {
    tasks.push_back(trace.tasks[below(random, trace.tasks.size())]);
    demand += tasks.back().devices * tasks.back().share;
  }

  std::vector<PackTask> specs = trace.tasks;  // typical tasks differ in CPU, cards and model, not in host memory
  for (PackTask& task : specs) task.memory = 0;
  const auto mix = core::typical_tasks(specs, 95);
  Packer::Options options;
  options.policy = policy;
  options.whole_device = kCard;
  for (const PackNode& node : trace.nodes) {
    options.cpu_unit = std::max(options.cpu_unit, node.cpu);
    options.devices_unit = std::max(options.devices_unit, static_cast<std::int64_t>(node.free.size()));
  }
  Packer packer(trace.nodes, mix, options);
  OpenbResult result;
  result.seed = seed;
  result.tasks = tasks.size();
  result.trace_hash = seed;
  std::int64_t allocated = 0;
  for (const PackTask& task : tasks) {
    const core::Index shape = packer.shape_of(task);
    const auto spot = packer.pick(shape, policy == core::PackPolicy::random ? random() : 0);
    result.trace_hash = mixed(result.trace_hash, spot ? spot->node + 1ULL : 0);
    if (!spot) continue;
    for (const std::uint32_t device : spot->devices) result.trace_hash = mixed(result.trace_hash, device);
    packer.place(shape, *spot);
    ++result.placed;
    allocated += task.devices * task.share;
  }
  std::uint64_t weight = 0;
  for (const auto& m : mix) weight += m.weight;
  std::int64_t fragments = 0;
  for (const PackNode& node : packer.nodes()) fragments += core::fragmentation(node, mix);
  const auto capacity = static_cast<double>(trace.capacity);
  result.allocated_pct = 100 * static_cast<double>(allocated) / capacity;
  result.fragmented_pct = 100 * static_cast<double>(fragments) / static_cast<double>(weight) / capacity;
  result.ratings = packer.ratings();
  result.seconds = static_cast<double>(std::clock() - started) / CLOCKS_PER_SEC;
  return result;
}

}  // namespace gq::sim
