// submit.cpp - what `gpuq submit [options] KIND [files…]` and `gpuq submit [options] -- ARGV…` mean: the jobs.
#include "client/cli/submit.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>

#include "client/cli/pack.h"
#include "client/cli/text.h"
#include "client/lib/array.h"
#include "client/lib/convert.h"
#include "common/config/folder_identity.h"
#include "common/vocabulary/job.h"
#include "common/vocabulary/limits.h"

namespace gq::cli {

namespace {

namespace fs = std::filesystem;

constexpr std::size_t kPartBytesMax = std::size_t{2} << 30U;   // held in memory while it is hashed and sent

Result<std::string> read_file(const std::string& path) {
  if (path == "-") return std::string(std::istreambuf_iterator<char>(std::cin), {});
  std::error_code error;
  const auto status = fs::status(path, error);
  if (!fs::exists(status)) return fail(Errc::not_found, "there is no file " + path, "check the path");
  if (!fs::is_regular_file(status) && !fs::is_fifo(status) && !fs::is_character_file(status))
    return fail(Errc::bad_input, path + " is not a file", "name a file");
  if (fs::is_regular_file(status) && fs::file_size(path, error) > kPartBytesMax) return fail(Errc::too_large, path + " is larger than 2 GiB", "give the worker a path it can read, or split the file");
  errno = 0;
  std::ifstream in(path, std::ios::binary);
  std::string bytes(std::istreambuf_iterator<char>(in), {});
  if (!in.is_open() || in.bad()) return fail(Errc::bad_input, "cannot read " + path + ": " + std::strerror(errno), "check its permissions");
  return bytes;
}

/// A file as it is, a folder as an uncompressed tar of what lies in it.
Result<gpuq::Part> read_part(const std::string& name, const std::string& path) {
  gpuq::Part part;
  part.name = name;
  std::error_code error;
  if (path != "-" && fs::is_directory(path, error)) {
    auto packed = pack_folder(path, kPartBytesMax);
    if (!packed) return tl::unexpected(packed.error());
    part.media = "application/x-tar";
    part.bytes = std::move(*packed);
    return part;
  }
  auto bytes = read_file(path);
  if (!bytes) return tl::unexpected(bytes.error());
  part.media = media_of(path, *bytes);
  part.bytes = std::move(*bytes);
  return part;
}

/// By reference where that is possible, else its bytes.
Result<gpuq::Part> input(const std::string& name, const std::string& path, const Surroundings& around) {
  if (around.by_reference && path != "-")
    if (auto part = around.by_reference(name, path)) return std::move(*part);
  return read_part(name, path);
}

std::string base_name(const std::string& path) {
  if (path == "-") return "stdin";
  std::string name = fs::path(path).lexically_normal().filename().string();
  return name.empty() ? fs::path(path).lexically_normal().parent_path().filename().string() : name;
}

Result<gpuq::JobSpec> common_spec(const SubmitArguments& a, const Surroundings& around) {
  gpuq::JobSpec spec;
  spec.kind = a.kind;
  spec.job_class = a.job_class;
  spec.priority = a.priority;
  spec.model = a.model;
  spec.devices = a.devices;
  spec.retries = a.retries;
  spec.on_preempt = a.on_preempt;
  spec.unique = a.unique;
  spec.label = a.label;
  spec.id = a.id;
  spec.after = a.after;
  spec.exclusive = a.exclusive;
  spec.strict = a.strict;
  spec.durability = a.durability;
  spec.per_device = a.per_device;
  if (!a.outputs.empty()) {
    if (!a.outputs.starts_with("share:")) return fail(Errc::usage, "--outputs '" + a.outputs + "' is no place on a share", "--outputs share:NAME/DIR");
    spec.outputs = a.outputs.substr(6);
  }
  if (!a.vram.empty()) {
    auto range = parse_vram(a.vram);
    if (!range) return tl::unexpected(range.error());
    spec.vram_min_mib = range->min_mib;
    spec.vram_max_mib = range->max_mib;
  }
  for (const std::string& text : a.where) {
    if (auto pair = parse_pair(text, "--where"); !pair) return tl::unexpected(pair.error());
    spec.where.push_back(text);
  }
  for (const std::string& text : a.set) {
    auto pair = parse_pair(text, "--set");
    if (!pair) return tl::unexpected(pair.error());
    spec.params[pair->first] = pair->second;
  }
  if (!a.not_before.empty()) {
    auto at = parse_when(a.not_before, around.now_ms);
    if (!at) return tl::unexpected(at.error());
    spec.not_before_ms = *at;
  }
  if (!a.deadline.empty()) {
    auto at = parse_when(a.deadline, around.now_ms);
    if (!at) return tl::unexpected(at.error());
    if (*at <= around.now_ms) return fail(Errc::usage, "the deadline '" + a.deadline + "' has passed already", "name a time to come");
    spec.deadline_ms = *at;
  }
  if (!a.timeout.empty()) {
    auto span = parse_span(a.timeout);
    if (!span) return tl::unexpected(span.error());
    spec.timeout = *span;
  }
  if (spec.kind == "command") {   // these four come along, nothing else unasked
    for (const char* name : {"PATH", "VIRTUAL_ENV", "CONDA_PREFIX", "LANG"})
      if (const auto it = around.environment.find(name); it != around.environment.end()) spec.env[name] = it->second;
    spec.cwd = a.workdir.empty() ? around.cwd : fs::absolute(fs::path(around.cwd) / a.workdir).lexically_normal().string();
    spec.cwd_identity = config::folder_identity(spec.cwd);
    spec.argv = a.argv;
  }
  for (const std::string& text : a.env) {
    if (text.find('=') == std::string::npos) {   // --env NAME: as it is here
      const auto it = around.environment.find(text);
      if (it == around.environment.end()) return fail(Errc::usage, "--env " + text + ": there is no such variable here", "--env " + text + "=VALUE");
      spec.env[text] = it->second;
      continue;
    }
    auto pair = parse_pair(text, "--env");
    if (!pair) return tl::unexpected(pair.error());
    spec.env[pair->first] = pair->second;
  }
  for (const std::string& text : a.parts) {
    auto pair = parse_pair(text, "--part");
    if (!pair) return tl::unexpected(pair.error());
    auto part = input(pair->first, pair->second, around);
    if (!part) return tl::unexpected(part.error());
    spec.parts.push_back(std::move(*part));
  }
  return spec;
}

}  // namespace

Result<SubmitPlan> plan_submit(const SubmitArguments& given, const Surroundings& around) {
  SubmitArguments a = given;
  if (a.had_dashes) {
    if (a.argv.empty()) return fail(Errc::usage, "there is no command behind --", "gpuq submit -- python train.py");
    if (a.kind.empty()) a.kind = "command";
    if (a.kind != "command") return fail(Errc::usage, "only a command takes words behind --, not '" + a.kind + "'", "gpuq submit " + a.kind + " FILE…   or   gpuq submit -- " + a.argv.front());
  }
  if (a.kind.empty()) return fail(Errc::usage, "submit what?", "a kind (" + client::kinds_text() + "), or a command: gpuq submit -- python train.py");
  const auto kind = kind_index(a.kind);
  if (!kind) {
    const std::string near = client::closest(a.kind, client::kind_names());
    return fail(Errc::unknown_kind, "there is no kind '" + a.kind + "'" + (near.empty() ? "" : ", did you mean '" + near + "'?"),
                near.empty() ? "one of: " + client::kinds_text() + "; a program runs as: gpuq submit -- " + a.kind : "gpuq submit " + near);
  }
  if (a.kind == "command" && !a.had_dashes) return fail(Errc::usage, "a command stands behind --", "gpuq submit -- python train.py");
  if (kKinds[*kind].uses_model && a.model.empty()) return fail(Errc::usage, a.kind + " needs a model", "--model NAME; gpuq model list shows them");
  if (a.kind == "detect" && a.files.empty() && a.parts.empty() && !a.only_plan) return fail(Errc::usage, "detect needs at least one image", "gpuq submit detect --model NAME image.png");

  auto common = common_spec(a, around);
  if (!common) return tl::unexpected(common.error());
  SubmitPlan plan;
  // One job per file: detect always, infer unless its files have names. Everything else takes all files as parts of one job.
  const bool named = std::any_of(a.files.begin(), a.files.end(), [](const std::string& f) { return f.find('=') != std::string::npos && !fs::exists(f); });
  const bool per_file = !a.files.empty() && (a.kind == "detect" || (a.kind == "infer" && !named));
  if (per_file) {
    if (a.files.size() > 1 && (!a.id.empty() || !a.unique.empty()))
      return fail(Errc::usage, "--id and --unique name one job, but there are " + std::to_string(a.files.size()) + " files", "submit them one by one");
    for (const std::string& file : a.files) {
      gpuq::JobSpec spec = *common;
      if (std::error_code error; a.kind == "detect" && fs::is_directory(file, error))
        return fail(Errc::bad_image, file + " is a folder", "name the images in it: " + file + "/*.png");
      auto part = input(a.kind == "detect" ? "image" : "input", file, around);
      if (!part) return tl::unexpected(part.error());
      if (const std::uint64_t size = part->share.empty() ? part->bytes.size() : part->size; a.kind == "detect" && size > kLimits.image_bytes_max)
        return fail(Errc::too_large, file + " is " + bytes_text(size) + ", an image may have " + bytes_text(kLimits.image_bytes_max), "scale it down or compress it");
      if (a.kind == "detect" && part->media != "image/png" && part->media != "image/jpeg")
        return fail(Errc::bad_image, file + " is neither JPEG nor PNG", "convert it first");
      spec.parts.push_back(std::move(*part));
      plan.jobs.push_back(std::move(spec));
      plan.files.push_back(file);
    }
    return plan;
  }
  for (const std::string& file : a.files) {
    if (a.kind == "echo" && file != "-" && !file.starts_with("share:") && !fs::exists(file)) {   // gpuq submit echo hello --wait
      gpuq::Part word;
      word.name = "text";
      word.media = "text/plain";
      word.bytes = file;
      common->parts.push_back(std::move(word));
      continue;
    }
    const auto equals = file.find('=');
    const bool is_named = equals != std::string::npos && equals > 0 && !fs::exists(file);
    const std::string path = is_named ? file.substr(equals + 1) : file;
    // The trainer's data set has one name, whatever the folder is called.
    const std::string name = is_named ? file.substr(0, equals) : a.kind.starts_with("train.") && a.files.size() == 1 ? "dataset" : base_name(file);
    auto part = input(name, path, around);
    if (!part) return tl::unexpected(part.error());
    common->parts.push_back(std::move(*part));
  }
  if (a.array.empty()) {
    plan.jobs.push_back(std::move(*common));
    return plan;
  }
  auto indices = client::parse_array(a.array);
  if (!indices) return tl::unexpected(indices.error());
  auto jobs = client::array_of(*common, *indices);
  if (!jobs) return tl::unexpected(jobs.error());
  plan.jobs = std::move(*jobs);
  return plan;
}

}  // namespace gq::cli
