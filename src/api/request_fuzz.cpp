// A request body, read as each of the endpoints' requests: native values within their ranges, or an
// error with words. Seeds: tests/fuzz/seeds/request.
#include <cstdint>
#include <cstdlib>

#include "api/benchmark.h"
#include "api/error.h"
#include "api/openai_request.h"

namespace {

using namespace impetus;

void must(bool holds) {
  if (!holds) std::abort();
}

template <typename T>
bool good(const Result<T>& result) {
  if (result.ok()) return true;
  must(!result.error().message.empty());
  const auto wire = api::wire_error(result.error());
  must(wire.status >= 400 && wire.status < 500);  // never the server's own fault
  must(parse_json(api::error_body(result.error())).ok());
  return false;
}

void check(const GenerateRequest& request) {
  must(request.n >= 1 && request.n <= 16);
  must(!request.tokens_max || *request.tokens_max >= 1);
  const SamplingOptions& sampling = request.sampling;
  must(!sampling.temperature || (*sampling.temperature >= 0 && *sampling.temperature <= 2));
  must(!sampling.top_p || (*sampling.top_p >= 0 && *sampling.top_p <= 1));
  must(!sampling.top_k || *sampling.top_k >= 0);
  must(sampling.top_logprobs >= -1 && sampling.top_logprobs <= 20);
  for (const auto& [id, bias] : sampling.logit_bias) must(id >= 0 && bias >= -100 && bias <= 100);
  for (const std::string& stop : request.stop) must(!stop.empty());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto body = parse_json(std::string_view(reinterpret_cast<const char*>(data), size));
  if (!good(body)) return 0;
  if (const auto call = api::parse_chat(*body); good(call)) check(call->generate);
  if (const auto call = api::parse_completion(*body); good(call)) {
    must(!call->generate.empty());
    for (const GenerateRequest& request : call->generate) check(request);
  }
  for (const bool ids : {false, true}) {
    if (const auto call = api::parse_embedding(*body, {ids, true}); good(call)) {
      must(ids || call->embed.input.index() == 0);
      must(!call->embed.dimensions || *call->embed.dimensions >= 1);
    }
  }
  if (const auto call = api::parse_benchmark(*body); good(call)) {
    must(call->options.prompt >= 1 && call->options.generate >= 0);
    must(call->options.repeat >= 1 && call->options.repeat <= 20);
  }
  good(api::parse_tokenize(*body));
  good(api::parse_detokenize(*body));
  return 0;
}
