// model_load.cpp - from a file to a warm model: which format it is, what its metadata say, and a first run at every batch size.
#include <algorithm>
#include <exception>
#include <string>

#include "worker/executors/batcher.h"
#include "worker/executors/json.h"
#include "worker/executors/model_state.h"

namespace gq::exec {
namespace {

constexpr int kWarmRuns = 3;             // TorchScript profiles, then compiles, then runs: each new shape needs this many

Failure not_a_model(const std::string& path, const std::string& bytes, const std::string& why) {
  const std::string next = "export it: yolo export model=best.pt format=torchscript, or torch.jit.trace(model, example).save('model.pt')";
  const bool zip = bytes.substr(0, 4) == std::string("PK\3\4", 4);
  const bool pickle = (!bytes.empty() && bytes[0] == '\x80') || (zip && bytes.find("/data.pkl") != std::string::npos && bytes.find("/constants.pkl") == std::string::npos);
  if (pickle) return bad_model(path + " is a Python pickle (torch.save), which needs its Python classes and can run any code", next);
  if (!zip) return bad_model(path + " is neither TorchScript nor a gpuq detector", next);
  return bad_model(path + " cannot be loaded as TorchScript: " + why, next);
}

void read_metadata(const std::string& text, ModelInfo& info, bool& knows_size, bool& fixed) {
  const auto json = parse_json(text);
  if (!json || json->object() == nullptr) return;
  if (const Json* names = json->find("names")) {
    std::vector<std::string> out;
    if (const auto* list = names->array()) {
      for (const auto& n : *list) out.push_back(n.text() != nullptr ? *n.text() : "");
    } else if (const auto* table = names->object()) {
      for (const auto& [key, value] : *table) {
        std::int64_t index{};
        if (value.text() == nullptr || !read_number(key, index) || index < 0 || index > 9999) continue;
        if (out.size() <= static_cast<std::size_t>(index)) out.resize(static_cast<std::size_t>(index) + 1);
        out[static_cast<std::size_t>(index)] = *value.text();
      }
    }
    if (info.names.empty()) info.names = std::move(out);
  }
  if (const Json* size = json->find("imgsz"); size != nullptr && !knows_size) {
    double height{}, width{};
    if (size->number()) {
      height = width = *size->number();
    } else if (const auto* pair = size->array(); pair != nullptr && pair->size() == 2 && (*pair)[0].number() && (*pair)[1].number()) {
      height = *(*pair)[0].number();
      width = *(*pair)[1].number();
    }
    if (height >= 32 && width >= 32 && height <= 8192 && width <= 8192) {
      info.height = static_cast<int>(height);
      info.width = static_cast<int>(width);
      knows_size = true;
    }
  }
  if (const Json* stride = json->find("stride"); stride != nullptr && stride->number() && *stride->number() >= 1 && *stride->number() <= 256)
    info.multiple = static_cast<int>(*stride->number());
  if (const Json* channels = json->find("channels"); channels != nullptr && channels->number() && (*channels->number() == 1 || *channels->number() == 3))
    info.channels = static_cast<int>(*channels->number());
  const Json* dynamic = json->find("dynamic");
  if (const Json* args = json->find("args"); dynamic == nullptr && args != nullptr) dynamic = args->find("dynamic");
  fixed = knows_size && !(dynamic != nullptr && dynamic->boolean().value_or(false));
}

Expected<Done> load_detector(Model::State& s, const std::string& bytes) {
  auto file = decode_tensors(bytes);
  if (!file) return file.failure();
  if (file->metadata["format"] != "gpuq-detector") return bad_model("the tensor file is no gpuq detector", "train one: gpuq submit train.detector …");
  if (file->metadata["version"] != "1") return bad_model("detector version " + file->metadata["version"] + " is unknown to this gpuq");
  std::string all;
  for (const auto& t : file->tensors) all += t.bytes;
  if (std::to_string(checksum(all)) != file->metadata["checksum"]) return bad_model("the detector's checksum is wrong: the file is damaged", "push it again");
  bool knows_size = false, fixed = false;
  read_metadata(file->metadata["info"], s.info, knows_size, fixed);
  if (s.info.names.empty()) return bad_model("the detector names no classes");
  s.info.channels = 1;
  s.info.multiple = kNetMultiple;
  s.info.any_size = true;
  s.net = DetectorNet(static_cast<int>(s.info.names.size()));
  if (auto ok = net_from_file(s.net, *file); !ok) return ok;
  s.net->eval();
  s.net->fold();
  use_channels_last(*s.net);
  s.bf16 = s.backend.kind() == DeviceKind::cpu && s.backend.bf16();
  if (s.bf16) s.net->to(torch::kBFloat16);
  s.net->to(s.device);
  return Done{};
}

Expected<Done> load_script(Model::State& s, const LoadRequest& request, const std::string& bytes, bool& knows_metadata) {
  torch::jit::ExtraFilesMap extra{{"config.txt", ""}};   // only names that are asked for are filled
  try {
    s.script = torch::jit::load(request.path, torch::Device(torch::kCPU), extra);
  } catch (const std::exception& e) {
    return not_a_model(request.path, bytes, short_what(e));
  }
  bool knows_size = false, fixed = false;
  knows_metadata = !extra["config.txt"].empty();
  read_metadata(extra["config.txt"], s.info, knows_size, fixed);
  read_metadata(request.metadata, s.info, knows_size, fixed);
  s.info.any_size = !fixed;
  s.script->eval();
  s.script->to(s.device);
  torch::NoGradGuard quiet;
  for (auto p : s.script->parameters())
    if (p.dim() == 4) p.set_data(p.contiguous(at::MemoryFormat::ChannelsLast));
  try {
    s.script = torch::jit::freeze(*s.script);
  } catch (const std::exception&) {
    // Some scripts cannot be frozen (mutable attributes); they run as they are.
  }
  return Done{};
}

std::string budget_text(std::int64_t budget_mib, const Backend& backend) {
  if (budget_mib <= 0) return {};
  const std::string context = backend.cuda() == nullptr ? "" : ", of which " + std::to_string(backend.context_mib()) + " MiB are the CUDA context,";
  return " of " + std::to_string(budget_mib) + " MiB" + context;
}

}  // namespace

Expected<Done> Model::State::warm(int batch_max, bool must_detect) {
  const c10::InferenceMode inference;
  for (const int bucket : batch_buckets(batch_max)) {
    try {
      torch::Tensor out;
      for (int i = 0; i < (script ? kWarmRuns : 1); ++i) out = forward(blank(bucket).contiguous(at::MemoryFormat::ChannelsLast));
      std::string why;
      if (!backend.synchronize(why)) on_device_lost(why);
      if (auto wrong = judge(out, bucket)) {
        if (bucket > 1) break;   // a fixed batch: the answer keeps its first size
        if (must_detect) return *wrong;
        return Done{};           // no detector; `infer` may still use it
      }
      info.detects = true;
      info.batch_max = bucket;
    } catch (const std::exception& e) {
      backend.empty_cache();
      const auto* c10 = dynamic_cast<const c10::Error*>(&e);
      if (bucket > 1) break;     // exported for one image at a time, or memory is short: what worked is the cap
      if (c10 != nullptr && is_oom(*c10)) return Failure{"OOM", "model " + info.name + " does not fit its budget" + budget_text(budget_mib, backend) + " with one image", "a larger --vram"};
      if (must_detect) return bad_model("model " + info.name + " fails on a blank " + std::to_string(info.width) + "x" + std::to_string(info.height) + " image: " + short_what(e));
      return Done{};
    }
  }
  return Done{};
}

Expected<std::shared_ptr<Model>> Model::load(const LoadRequest& request, const Backend& backend) {
  const std::int64_t before = backend.used_mib();
  auto state = std::make_unique<State>(backend);
  state->info.name = request.name;
  state->budget_mib = request.budget_mib;
  state->padded = backend.kind() != DeviceKind::cpu;
  std::string bytes, why;
  if (!image::read_file(request.path, bytes, why)) return Failure{"UNKNOWN_MODEL", "model " + request.name + ": " + why, "gpuq model list"};

  const bool tensors = bytes.size() > 9 && bytes[8] == '{' && bytes[0] != '\x80';
  // The content decides before the registry's word: a detector pushed without --runtime still runs.
  const std::string runtime = tensors ? "gpuq-detector" : request.runtime.empty() ? "torchscript" : request.runtime;
  state->info.runtime = runtime;
  const int batch_max = request.batch_max > 0 ? request.batch_max : backend.kind() == DeviceKind::cpu ? 4 : 32;
  try {
    bool must_detect = true;
    if (runtime == "gpuq-detector") {
      if (auto ok = load_detector(*state, bytes); !ok) return ok.failure();
    } else if (runtime == "torchscript") {
      if (auto ok = load_script(*state, request, bytes, must_detect); !ok) return ok.failure();
    } else {
      return bad_model("runtime '" + runtime + "' is unknown to a modelhost", "torchscript or gpuq-detector");
    }
    if (auto ok = state->warm(batch_max, must_detect); !ok) return ok.failure();
  } catch (const c10::Error& e) {
    backend.empty_cache();
    if (is_oom(e)) return Failure{"OOM", "model " + request.name + " does not fit its budget" + budget_text(request.budget_mib, backend), "a larger --vram"};
    return bad_model("model " + request.name + ": " + short_what(e));
  }
  state->cap = state->info.batch_max;
  state->info.used_mib = std::max({std::int64_t{1}, backend.used_mib() - before, static_cast<std::int64_t>(bytes.size() >> 20U)});
  return std::shared_ptr<Model>(new Model(std::move(state)));
}

}  // namespace gq::exec
