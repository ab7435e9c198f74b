#include "common/config/model_file.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>

#include "common/config/config.h"
#include "common/vocabulary/job.h"

namespace gq {
namespace {

namespace fs = std::filesystem;
constexpr std::size_t kFileBytesMax = 64U << 10U;

std::vector<Setting> settings() {
  return {{"entry", SettingType::text, "", "module:Class"},
          {"interpreter", SettingType::text, "python3", "python, venv or conda environment"},
          {"kinds", SettingType::list, "infer", "infer, detect"},
          {"vram", SettingType::memory, "0MiB", "device memory"},
          {"max_batch", SettingType::number, "1", "requests in one call"},
          {"instances", SettingType::number, "1", "processes per device"},
          {"setup_timeout", SettingType::duration, "2min", "of setup and warm-up"},
          {"warmup", SettingType::boolean, "true", "call warmup()"},
          {"env.*", SettingType::text, "", "environment"}};
}

tl::unexpected<Error> bad(std::string what, std::string next) { return fail(Errc::bad_model, std::move(what), std::move(next)); }

bool is_module(std::string_view name) {
  return !name.empty() && std::all_of(name.begin(), name.end(), [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '.'; }) && name.front() != '.' && name.back() != '.';
}

}  // namespace

Result<ModelFile> ModelFile::parse(std::string_view toml, const std::string& name) {
  if (toml.size() > kFileBytesMax) return bad(name + " is larger than 64 KiB", "it holds settings, no data");
  auto config = Config::parse(settings(), toml, name, [](const char*) -> const char* { return nullptr; });
  if (!config) return bad(config.error().what, config.error().next);
  const auto at = [&](const char* key) { return config->where(key).empty() ? name : config->where(key); };
  ModelFile file;
  file.entry = config->text("entry");
  const std::size_t colon = file.entry.find(':');
  if (file.entry.empty()) return bad(name + ": entry is missing", "entry = \"module:Class\"");
  if (colon == std::string::npos || !is_module(file.entry.substr(0, colon)) || !is_module(file.entry.substr(colon + 1)))
    return bad(at("entry") + ": entry = \"" + file.entry + "\" is not module:Class", "entry = \"ocr:Reader\" for class Reader in ocr.py");
  file.interpreter = config->text("interpreter");
  if (file.interpreter.empty()) return bad(at("interpreter") + ": interpreter is empty", "leave it out for python3");
  file.kinds = config->list("kinds");
  for (const std::string& kind : file.kinds)
    if (kind != "infer" && kind != "detect") return bad(at("kinds") + ": kinds has '" + kind + "'", "a Python model answers infer and detect");
  if (file.kinds.empty()) return bad(at("kinds") + ": kinds is empty", "kinds = [\"infer\"]");
  file.vram = config->memory("vram");
  if (file.vram.value < 0) return bad(at("vram") + ": vram is negative", "vram = \"2GiB\"");
  file.max_batch = config->number("max_batch");
  if (file.max_batch < 1 || file.max_batch > kBatchMax) return bad(at("max_batch") + ": max_batch = " + std::to_string(file.max_batch) + " is not 1.." + std::to_string(kBatchMax), "1 = one request at a time");
  file.instances = config->number("instances");
  if (file.instances < 1 || file.instances > kInstancesMax) return bad(at("instances") + ": instances = " + std::to_string(file.instances) + " is not 1.." + std::to_string(kInstancesMax), "1 = one process on a device");
  file.setup_timeout = config->duration("setup_timeout");
  if (file.setup_timeout < std::chrono::seconds(1) || file.setup_timeout > std::chrono::hours(2)) return bad(at("setup_timeout") + ": setup_timeout is not 1s..2h", "setup_timeout = \"2min\"");
  file.warmup = config->boolean("warmup");
  for (const std::string& variable : config->names("env.*")) {
    if (variable.starts_with("GPUQ_") || variable.starts_with("CUDA_VISIBLE")) return bad(at(("env." + variable).c_str()) + ": env." + variable + " is gpuq's own", "leave it out");
    file.env[variable] = config->text("env." + variable);
  }
  return file;
}

Result<ModelFile> ModelFile::read(const std::string& folder) {
  const std::string path = folder + "/model.toml";
  std::ifstream in(path, std::ios::binary);
  if (!in) return bad(folder + " holds no model.toml", "a Python model is a folder with model.toml and the file of its entry; see client/python/gpuq/serve");
  auto file = parse(std::string(std::istreambuf_iterator<char>(in), {}), path);
  if (!file) return file;
  std::string module = file->entry.substr(0, file->entry.find(':'));
  if (module == "gpuq") return file;
  std::replace(module.begin(), module.end(), '.', '/');
  std::error_code ec;
  if (!fs::is_regular_file(folder + "/" + module + ".py", ec) && !fs::is_regular_file(folder + "/" + module + "/__init__.py", ec))
    return bad(path + ": entry = \"" + file->entry + "\", but there is neither " + module + ".py nor " + module + "/__init__.py", "put it into the folder, or correct the entry");
  return file;
}

Mib ModelFile::budget() const {
  const Mib one = vram.value == 0 && instances > 1 ? kKinds[*kind_index("infer")].default_budget : vram;
  return {one.value * instances};
}

Result<std::string> ModelFile::python() const {
  std::error_code ec;
  if (interpreter.find('/') != std::string::npos) {
    const std::string program = fs::is_directory(interpreter, ec) ? interpreter + "/bin/python" : interpreter;
    if (::access(program.c_str(), X_OK) == 0 && !fs::is_directory(program, ec)) return program;
    return bad("the interpreter " + program + " is not there, or no program", "interpreter = a python, a venv or a conda environment on the worker's host");
  }
  const char* path = std::getenv("PATH");
  std::istringstream folders(path == nullptr ? "/usr/bin:/bin" : path);
  for (std::string folder; std::getline(folders, folder, ':');)
    if (const std::string candidate = folder + "/" + interpreter; ::access(candidate.c_str(), X_OK) == 0) return candidate;
  return bad("there is no " + interpreter + " in the worker's PATH", "interpreter = \"/path/to/python\" in model.toml");
}

}  // namespace gq
