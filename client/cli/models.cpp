// models.cpp - model push|list|rm.
#include <CLI/CLI.hpp>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "client/cli/cli.h"
#include "client/cli/pack.h"
#include "client/cli/selectors.h"
#include "client/cli/text.h"
#include "client/lib/convert.h"
#include "common/config/model_file.h"

namespace gq::cli {

namespace {

using Json = nlohmann::ordered_json;

struct Arguments {
  std::string name, path, from, part, vram, version;
};

void show(Cli& cli, const gpuq::Model& model) {
  if (cli.is_json()) print_json(cli.io.out, cli.format() == Format::jsonl, "models", {to_json(model)});
  else cli.io.out << model.name << '@' << model.version << '\n';
}

/// "model" when there is one, else the only part that looks like weights.
const gpuq::Part& model_part(const gpuq::JobResult& result, const std::string& wanted) {
  std::string names;
  const gpuq::Part* found = nullptr;
  for (const gpuq::Part& part : result.parts) {
    names += (names.empty() ? "" : ", ") + part.name;
    const bool weights = part.name.ends_with(".pt") || part.name.ends_with(".torchscript");
    if (wanted.empty() ? part.name == "model" || (found == nullptr && weights) : part.name == wanted) found = &part;
  }
  if (found == nullptr)
    throw gpuq::Error("NOT_FOUND", "the result of job " + result.id + " has no part '" + (wanted.empty() ? "model" : wanted) + "'", names.empty() ? "it has no parts" : "--part with one of: " + names);
  return *found;
}

gpuq::Model push_from_job(Cli& cli, const Arguments& a, std::int64_t budget_mib) {
  gpuq::Client& client = cli.client();
  const std::string id = resolve_job(cli, a.from);
  const gpuq::JobResult result = client.result(id);
  if (!result.ok()) throw gpuq::Error("JOB_FAILED", "job " + id + " is " + result.state + ", it left no model", "gpuq status " + id);
  const gpuq::Part& part = model_part(result, a.part);
  const std::string blob = part.blob.empty() ? client.upload(part.bytes) : part.blob;
  std::string metadata;
  if (const auto value = result.values.find("metadata"); value != result.values.end()) metadata = value->second;
  if (const gpuq::Part* about = result.part("metadata"); about != nullptr) metadata = client.fetch(*about);
  const auto runtime = result.values.find("runtime");   // the trainer says what it made
  return client.push_model_from_blob(a.name, blob, part.blob.empty() ? part.bytes.size() : part.size, runtime == result.values.end() ? "torchscript" : runtime->second, metadata, budget_mib);
}

/// A folder with model.toml: judged here, then packed so that equal folders are equal versions.
gpuq::Model push_folder(Cli& cli, const Arguments& a, std::int64_t budget_mib) {
  namespace fs = std::filesystem;
  constexpr std::size_t kModelBytesMax = std::size_t{2} << 30U;
  constexpr std::size_t kNameMax = 100;                 // of a file below the folder: what a plain tar header holds
  const auto refuse = [](const Error& error) { return client::to_public(error); };
  const auto file = ModelFile::read(a.path);
  if (!file) throw refuse(file.error());
  std::error_code error;
  for (fs::recursive_directory_iterator it(a.path, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().lexically_relative(a.path).generic_string();
    if (it->is_symlink(error)) throw gpuq::Error("BAD_MODEL", a.path + " holds the symbolic link " + name, "put the file itself there: a worker on another host cannot follow it");
    if (it->path().filename() == "__pycache__" || it->path().filename() == ".git") it.disable_recursion_pending();
    else if (name.size() > kNameMax) throw gpuq::Error("BAD_MODEL", "the name " + name + " is longer than " + std::to_string(kNameMax) + " characters", "shorten it");
  }
  auto packed = pack_folder(a.path, kModelBytesMax);
  if (!packed) throw refuse(packed.error());
  gpuq::Client& client = cli.client();
  const std::size_t bytes = packed->size();
  const std::string blob = client.upload(*packed);
  Json about{{"entry", file->entry}, {"interpreter", file->interpreter}, {"kinds", file->kinds}, {"max_batch", file->max_batch}};
  return client.push_model_from_blob(a.name, blob, bytes, "python", about.dump(), budget_mib != 0 ? budget_mib : file->vram.value);
}

int run_push(Cli& cli, const Arguments& a) {
  if (a.path.empty() == a.from.empty()) throw gpuq::Error("USAGE", "a model comes from a file or from a job, exactly one of them", "gpuq model push NAME FILE   or   gpuq model push NAME --from JOB");
  std::int64_t budget_mib = 0;
  if (!a.vram.empty()) {
    auto range = parse_vram(a.vram);
    if (!range) throw gpuq::Error("USAGE", range.error().what, "--vram 2GiB");
    budget_mib = range->min_mib;
  }
  std::error_code ignored;
  const bool folder = a.from.empty() && std::filesystem::is_directory(a.path, ignored);
  const gpuq::Model model = folder ? push_folder(cli, a, budget_mib) : a.from.empty() ? cli.client().push_model(a.name, a.path, "torchscript", budget_mib) : push_from_job(cli, a, budget_mib);
  show(cli, model);
  cli.note("next: gpuq submit " + std::string(model.runtime == "python" && model.metadata.find("\"detect\"") == std::string::npos ? "infer" : "detect") + " --model " + model.name + " --wait FILE");
  return 0;
}

int run_list(Cli& cli) {
  const auto models = cli.client().models();
  if (cli.is_json()) {
    std::vector<Json> items;
    for (const gpuq::Model& model : models) items.push_back(to_json(model));
    print_json(cli.io.out, cli.format() == Format::jsonl, "models", items);
    return 0;
  }
  if (models.empty()) {
    cli.note("no models yet; gpuq model push NAME FILE");
    return 0;
  }
  Table table(cli.format() == Format::wide ? std::vector<std::string>{"NAME", "VERSION", "RUNTIME", "SIZE", "VRAM", "PUSHED", "PROMOTED", "OWNER", "BLOB"}
                                           : std::vector<std::string>{"NAME", "VERSION", "SIZE", "VRAM", "PUSHED", "PROMOTED"});
  for (const gpuq::Model& m : models) {
    const std::string vram = m.budget_mib == 0 ? "-" : mib(m.budget_mib);
    if (cli.format() == Format::wide) table.row({m.name, m.version, m.runtime, bytes_text(m.bytes), vram, stamp(m.pushed_ms), m.promoted ? "yes" : "", m.owner, m.blob});
    else table.row({m.name, m.version, bytes_text(m.bytes), vram, stamp(m.pushed_ms), m.promoted ? "yes" : ""});
  }
  table.print(cli.io.out, !cli.globals.no_header);
  return 0;
}

int run_remove(Cli& cli, const Arguments& a) {
  const auto at = a.name.find('@');
  const gpuq::Model model = cli.client().remove_model(a.name.substr(0, at), at == std::string::npos ? "" : a.name.substr(at + 1));
  if (cli.is_json()) show(cli, model);
  cli.note("removed " + (model.name.empty() ? a.name : model.name + (model.version.empty() ? "" : "@" + model.version)));
  return 0;
}

}  // namespace

void add_models(CLI::App& app, Cli& cli) {
  auto a = std::make_shared<Arguments>();
  CLI::App* model = app.add_subcommand("model", "models by name and version: push, list, rm");
  model->require_subcommand(0, 1);
  model->fallthrough();
  CLI::App* push = model->add_subcommand("push", "a TorchScript file, or a job's artefact, under a name");
  push->add_option("name", a->name, "letters, digits, . _ -")->option_text("NAME")->required();
  push->add_option("path", a->path, "the file")->option_text("FILE");
  push->add_option("--from", a->from, "the job that made it")->option_text("JOB");
  push->add_option("--part", a->part, "which part of its result (model)")->option_text("NAME");
  push->add_option("--vram", a->vram, "what one needs on a device, context included")->option_text("SIZE");
  push->callback([&cli, a] { cli.action = [&cli, a] { return run_push(cli, *a); }; });
  CLI::App* list = model->add_subcommand("list", "all versions")->alias("ls");
  list->callback([&cli] { cli.action = [&cli] { return run_list(cli); }; });
  CLI::App* remove = model->add_subcommand("rm", "a version, or all of a name");
  remove->add_option("name", a->name, "NAME or NAME@VERSION")->option_text("NAME[@VERSION]")->required();
  remove->callback([&cli, a] { cli.action = [&cli, a] { return run_remove(cli, *a); }; });
}

}  // namespace gq::cli
