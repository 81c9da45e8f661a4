#include "server/routes.h"

#include <algorithm>
#include <ctime>
#include <random>

#include "api/benchmark.h"
#include "api/openai_request.h"
#include "api/openai_response.h"
#include "runtime/history.h"
#include "server/answers.h"

namespace impetus {
namespace {

Result<json::value> parse_body(const HttpRequest& request) {
  // Browsers send other types to foreign servers without asking first (no preflight).
  const std::string_view type = request.header("content-type");
  if (!type.empty() && type.find("json") == std::string_view::npos) {
    return error(ErrorCode::invalid_argument,
                 "the body's Content-Type is '{}'; it must be application/json", type);
  }
  return parse_json(request.body);
}

std::string fresh_id(const char* prefix) {
  static thread_local std::mt19937_64 random{std::random_device{}()};
  return fmt::format("{}-{:016x}{:08x}", prefix, random(), static_cast<uint32_t>(random()));
}

HttpResponse json_response(const json::object& body) {
  return {.body = json::serialize(body)};
}

json::array lost_list(const std::vector<LostProcessor>& lost) {
  json::array list;
  for (const LostProcessor& one : lost) {
    // What a step that never ended holds, thread and memory, stays so until the process ends.
    list.push_back(json::object{
        {"backend", one.backend}, {"why", one.why}, {"hangs", one.hangs}, {"since", one.since}});
  }
  return list;
}

}  // namespace

struct Routes::Route {
  const char* method;
  const char* path;  // a trailing '*' takes the rest
  bool needs_key;
  Work (*handle)(Routes&, const HttpRequest&, const std::shared_ptr<Outbox>&);
};

const std::vector<Routes::Route>& Routes::table() {
  using Box = std::shared_ptr<Outbox>;
  static const std::vector<Route> routes = [] {
    std::vector<Route> all;
    const auto add = [&](const char* method, const char* path, auto handle, bool needs_key = true) {
      all.push_back({method, path, needs_key, handle});
    };
    add("POST", "/v1/chat/completions", [](Routes& self, const HttpRequest& r, const Box& box) {
      return self.answer(r, box, true);
    });
    add("POST", "/v1/completions", [](Routes& self, const HttpRequest& r, const Box& box) {
      return self.answer(r, box, false);
    });
    add("POST", "/v1/embeddings", [](Routes& self, const HttpRequest& r, const Box& box) {
      return self.embeddings(r, box, false);
    });
    add("POST", "/api/embeddings", [](Routes& self, const HttpRequest& r, const Box& box) {
      return self.embeddings(r, box, true);
    });
    add("POST", "/tokenize", [](Routes& self, const HttpRequest& r, const Box& box) {
      box->respond(self.tokenize(r));
      return Work{};
    });
    add("POST", "/detokenize", [](Routes& self, const HttpRequest& r, const Box& box) {
      box->respond(self.detokenize(r));
      return Work{};
    });
    add("GET", "/api/plan", [](Routes& self, const HttpRequest&, const Box& box) {
      // A search over processors and models: not on the sockets' threads.
      box->respond_with([&self] { return json_response(self.runtime_.plan()); });
      return Work{};
    });
    add("GET", "/v1/models", [](Routes& self, const HttpRequest&, const Box& box) {
      box->respond(self.models());
      return Work{};
    });
    add("GET", "/v1/models/*", [](Routes& self, const HttpRequest& r, const Box& box) {
      box->respond(self.model(r.path.substr(std::string_view("/v1/models/").size())));
      return Work{};
    });
    add("GET", "/api/models/list", [](Routes& self, const HttpRequest&, const Box& box) {
      box->respond(self.model_details());
      return Work{};
    });
    add("POST", "/api/models/benchmark",
        [](Routes& self, const HttpRequest& r, const Box& box) { return self.benchmark(r, box); });
    add("GET", "/api/models/benchmark/history",
        [](Routes& self, const HttpRequest& r, const Box& box) {
          self.benchmark_history(r, box);
          return Work{};
        });
    const auto alive = [](Routes&, const HttpRequest&, const Box& box) {
      box->respond(json_response({{"status", "ok"}}));
      return Work{};
    };
    add("GET", "/health", alive, false);
    add("GET", "/api/health/live", alive);
    add("GET", "/api/health/ready", [](Routes& self, const HttpRequest&, const Box& box) {
      box->respond(self.ready());
      return Work{};
    });
    add("GET", "/api/health/status", [](Routes& self, const HttpRequest&, const Box& box) {
      box->respond(self.status());
      return Work{};
    });
    add("GET", "/api/hardware/info", [](Routes& self, const HttpRequest&, const Box& box) {
      box->respond_with([&self] {
        return HttpResponse{.body = self.hardware_.info(lost_list(self.runtime_.lost()))};
      });
      return Work{};
    });
    add("GET", "/api/hardware/metrics", [](Routes& self, const HttpRequest&, const Box& box) {
      if (auto body = self.hardware_.fresh_metrics()) {
        box->respond({.body = std::move(*body)});
      } else {
        box->respond_with([&self] { return HttpResponse{.body = self.hardware_.metrics()}; });
      }
      return Work{};
    });
    add("GET", "/metrics", [](Routes& self, const HttpRequest&, const Box& box) {
      box->respond(
          {.content_type = "text/plain; version=0.0.4; charset=utf-8",
           .body = self.metrics_.render(self.runtime_.metrics(), self.runtime_.ledger(),
                                        self.runtime_.device_memories(), self.runtime_.lost())});
      return Work{};
    });
    return all;
  }();
  return routes;
}

Routes::Routes(Runtime& runtime, Metrics& metrics, const ServerOptions& options)
    : runtime_(runtime), metrics_(metrics), options_(options), gate_(options) {}

namespace {

// OpenAI's endpoints answer with and without /v1.
std::string full_path(const std::string& path) {
  for (const char* bare : {"/chat/completions", "/completions", "/embeddings", "/models"}) {
    if (path == bare || path.starts_with(std::string(bare) + "/")) return "/v1" + path;
  }
  return path;
}

}  // namespace

// The route of a method and path; else what methods the path has.
const Routes::Route* Routes::match(const std::string& method, const std::string& path,
                                   std::string& allowed) {
  for (const Route& route : table()) {
    const std::string_view pattern = route.path;
    const bool matches = pattern.ends_with('*')
                             ? path.size() >= pattern.size() &&
                                   path.starts_with(pattern.substr(0, pattern.size() - 1))
                             : path == pattern;
    if (!matches) continue;
    if (route.method == (method == "HEAD" ? "GET" : method)) return &route;
    allowed = route.method;
  }
  return nullptr;
}

std::optional<HttpResponse> Routes::refusal(const HttpRequest& request) const {
  if (auto sender = gate_.check_sender(request); !sender.ok()) {
    HttpResponse response = error_response(sender.error());
    response.status = 403;
    return response;
  }
  std::string allowed;
  const Route* route = match(request.method, full_path(request.path), allowed);
  const bool open = request.method == "OPTIONS" || (route && !route->needs_key);
  if (auto key = gate_.check_key(request); !open && !key.ok()) {
    HttpResponse response = error_response(key.error());
    response.headers.emplace_back("WWW-Authenticate", "Bearer");
    return response;
  }
  return std::nullopt;
}

Routes::Dispatched Routes::dispatch(HttpRequest request, const std::shared_ptr<Outbox>& outbox) {
  Dispatched result{"unknown", {}, gate_.cors(request)};
  if (request.method == "OPTIONS") {
    result.route = "preflight";
    result.headers.emplace_back("Access-Control-Allow-Methods", "GET, POST, OPTIONS");
    const std::string_view wanted = request.header("access-control-request-headers");
    result.headers.emplace_back(
        "Access-Control-Allow-Headers",
        wanted.empty() ? "authorization, content-type, x-api-key" : std::string(wanted));
    result.headers.emplace_back("Access-Control-Max-Age", "600");
    outbox->respond({.status = 204, .body = {}});
    return result;
  }
  request.path = full_path(request.path);
  std::string allowed;
  if (const Route* route = match(request.method, request.path, allowed)) {
    result.route = route->path;
    result.work = route->handle(*this, request, outbox);
    return result;
  }
  HttpResponse response;
  if (!allowed.empty()) {
    response = error_response(error(ErrorCode::invalid_argument, "{} takes {}, not {}",
                                    request.path, allowed, request.method));
    response.status = 405;
    response.headers.emplace_back("Allow", allowed + ", OPTIONS");
  } else {
    response = error_response(
        error(ErrorCode::not_found, "there is no endpoint {} {}", request.method, request.path));
  }
  outbox->respond(std::move(response));
  return result;
}

std::string Routes::default_model(std::string_view kind) const {
  std::string found;
  for (const ModelInfo& info : runtime_.models()) {
    if (info.kind != kind) continue;
    if (!found.empty()) return {};
    found = info.id;
  }
  return found;
}

Routes::Work Routes::answer(const HttpRequest& request, const std::shared_ptr<Outbox>& outbox,
                            bool chat) {
  const auto refuse = [&](const Error& failure) {
    outbox->respond(error_response(failure));
    return Work{};
  };
  auto body = parse_body(request);
  if (!body.ok()) return refuse(body.error());
  std::vector<GenerateRequest> prompts;
  api::StreamOptions stream;
  if (chat) {
    auto call = api::parse_chat(*body);
    if (!call.ok()) return refuse(call.error());
    prompts.push_back(std::move(call->generate));
    stream = call->stream;
  } else {
    auto call = api::parse_completion(*body);
    if (!call.ok()) return refuse(call.error());
    prompts = std::move(call->generate);
    stream = call->stream;
  }
  for (GenerateRequest& prompt : prompts) {
    if (prompt.model.empty()) prompt.model = default_model("decoder");
  }
  const auto info = runtime_.model(prompts.front().model);
  if (!info.ok()) return refuse(info.error());

  api::AnswerHead head;
  head.kind = chat ? api::AnswerKind::chat : api::AnswerKind::completion;
  head.id = fresh_id(chat ? "chatcmpl" : "cmpl");
  head.created = std::time(nullptr);
  head.model = info->id;
  head.include_usage = stream.include_usage;
  head.logprobs = prompts.front().sampling.top_logprobs >= 0;
  auto join = std::make_shared<AnswerJoin>(std::move(head), stream.stream,
                                           static_cast<int32_t>(prompts.size()), prompts.front().n,
                                           outbox, metrics_);

  Work work;
  for (size_t i = 0; i < prompts.size(); ++i) {
    auto handle = runtime_.generate(std::move(prompts[i]), join->sink(static_cast<int32_t>(i)));
    if (!handle.ok()) {
      join->fail(handle.error());
      return {};  // cancels the prompts queued before
    }
    work.push_back(std::move(*handle));
  }
  join->begin();
  return work;
}

Routes::Work Routes::embeddings(const HttpRequest& request, const std::shared_ptr<Outbox>& outbox,
                                bool legacy) {
  const auto refuse = [&](const Error& failure) {
    outbox->respond(error_response(failure));
    return Work{};
  };
  auto body = parse_body(request);
  if (!body.ok()) return refuse(body.error());
  auto call = api::parse_embedding(*body, {options_.accept_token_ids, legacy});
  if (!call.ok()) return refuse(call.error());
  if (call->embed.model.empty()) call->embed.model = default_model("encoder");
  const std::string model = call->embed.model;
  auto handle = runtime_.embed(
      std::move(call->embed),
      [outbox, model, base64 = call->base64, bare = call->legacy](Result<EmbedAnswer> answer) {
        if (!answer.ok()) return outbox->respond(error_response(answer.error()));
        outbox->respond_with([answer = std::move(*answer), model, base64, bare] {
          HttpResponse response;
          if (auto ran = answer.devices.text(); !ran.empty()) {
            response.headers = {{"x-impetus-device", std::move(ran)}};
          }
          response.body = bare ? api::legacy_embedding_body(answer)
                               : api::embedding_body(model, answer, base64);
          return response;
        });
      });
  if (!handle.ok()) return refuse(handle.error());
  Work work;
  work.push_back(std::move(*handle));
  return work;
}

Routes::Work Routes::benchmark(const HttpRequest& request, const std::shared_ptr<Outbox>& outbox) {
  const auto begin = [&]() -> Result<RequestHandle> {
    IMPETUS_TRY(const json::value body, parse_body(request));
    IMPETUS_TRY(BenchmarkRequest asked, api::parse_benchmark(body));
    if (const auto served = runtime_.models(); asked.model.empty() && served.size() == 1) {
      asked.model = served.front().id;
    }
    return runtime_.benchmark(std::move(asked), [outbox](Result<BenchmarkAnswer> answer) {
      outbox->respond(answer.ok() ? json_response(api::benchmark_object(*answer))
                                  : error_response(answer.error()));
    });
  };
  auto handle = begin();
  if (!handle.ok()) {
    outbox->respond(error_response(handle.error()));
    return {};
  }
  Work work;
  work.push_back(std::move(*handle));
  return work;
}

void Routes::benchmark_history(const HttpRequest& request,
                               const std::shared_ptr<Outbox>& outbox) const {
  const auto asked = [&]() -> Result<api::HistoryQuery> {
    IMPETUS_TRY(const Query query, parse_query(request.query));
    return api::parse_history_query(query);
  }();
  if (!asked.ok()) return outbox->respond(error_response(asked.error()));
  // Reads a file: where the answer is made, not here.
  outbox->respond_with([asked = *asked] {
    const auto records = kept_benchmarks(asked.model, asked.limit);
    return records.ok() ? HttpResponse{.body = api::history_body(*records)}
                        : error_response(records.error());
  });
}

HttpResponse Routes::tokenize(const HttpRequest& request) const {
  const auto run = [&]() -> Result<HttpResponse> {
    IMPETUS_TRY(const json::value body, parse_body(request));
    IMPETUS_TRY(auto call, api::parse_tokenize(body));
    if (call.model.empty()) call.model = default_model("decoder");
    IMPETUS_TRY(const ModelInfo info, runtime_.model(call.model));
    IMPETUS_TRY(const auto ids,
                runtime_.tokenize(call.model, call.text, {call.add_special, call.parse_special}));
    return json_response({{"tokens", json::array(ids.begin(), ids.end())},
                          {"count", ids.size()},
                          {"max_model_len", info.context}});
  };
  auto response = run();
  return response.ok() ? std::move(*response) : error_response(response.error());
}

HttpResponse Routes::detokenize(const HttpRequest& request) const {
  const auto run = [&]() -> Result<HttpResponse> {
    IMPETUS_TRY(const json::value body, parse_body(request));
    IMPETUS_TRY(auto call, api::parse_detokenize(body));
    if (call.model.empty()) call.model = default_model("decoder");
    IMPETUS_TRY(const std::string text, runtime_.detokenize(call.model, call.tokens));
    return json_response({{"text", text}, {"content", text}, {"prompt", text}});
  };
  auto response = run();
  return response.ok() ? std::move(*response) : error_response(response.error());
}

HttpResponse Routes::models() const {
  return {.body = api::model_list_body(runtime_.models())};
}

HttpResponse Routes::model(const std::string& id) const {
  const auto info = runtime_.model(id);
  return info.ok() ? json_response(api::model_object(*info)) : error_response(info.error());
}

HttpResponse Routes::model_details() const {
  json::array models;
  const auto served = runtime_.models();
  for (const ModelInfo& info : served) {
    json::object entry = api::model_object(info)["impetus"].get_object();
    entry["id"] = info.id;
    entry["loaded"] = true;
    models.push_back(std::move(entry));
  }
  for (const ModelLocation& location : runtime_.available()) {
    if (std::any_of(served.begin(), served.end(),
                    [&](const ModelInfo& info) { return info.id == location.id; })) {
      continue;
    }
    models.push_back(json::object{{"id", location.id}, {"loaded", false}});
  }
  return json_response({{"models", std::move(models)}});
}

HttpResponse Routes::ready() const {
  if (draining_) {
    return error_response(error(ErrorCode::unavailable, "the server is shutting down"));
  }
  return json_response({{"status", "ready"}});
}

HttpResponse Routes::status() const {
  json::array models;
  for (const LaneMetrics& lane : runtime_.metrics()) {
    models.push_back(json::object{{"id", lane.model},
                                  {"waiting", lane.waiting},
                                  {"running", lane.running},
                                  {"moved", lane.moved},
                                  {"kv_blocks_total", lane.kv_blocks_total},
                                  {"kv_blocks_used", lane.kv_blocks_used}});
  }
  const auto memory_of = [](const MemoryLedger& ledger) {
    json::array holders;
    for (const auto& entry : ledger.entries()) {
      holders.push_back(json::object{{"purpose", entry.purpose}, {"bytes", entry.bytes}});
    }
    return json::object{{"capacity_bytes", ledger.capacity_bytes()},
                        {"reserved_bytes", ledger.used_bytes()},
                        {"reservations", std::move(holders)}};
  };
  json::object memory = memory_of(runtime_.ledger()), devices;
  for (const DeviceMemory& own : runtime_.device_memories()) {
    devices[own.backend] = memory_of(*own.ledger);
  }
  memory["devices"] = std::move(devices);
  const auto uptime = std::chrono::steady_clock::now() - started_;
  return json_response({{"status", draining_ ? "draining" : "ready"},
                        {"version", "0.1.0"},
                        {"uptime_seconds", std::chrono::duration<double>(uptime).count()},
                        {"models", std::move(models)},
                        {"lost", lost_list(runtime_.lost())},
                        {"memory", std::move(memory)}});
}

}  // namespace impetus
