// MiB/s of encoding by the processor time of one thread (a busy machine does not blur it).
// tokenizer_bench TEXT MODEL...: a MODEL is a Hugging Face folder or a GGUF file. The first pass is
// timed apart: it meets every word for the first time.
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "base/mapped_file.h"
#include "formats/gguf.h"
#include "text/tokenizer.h"

namespace {

using namespace impetus;

Result<std::unique_ptr<Tokenizer>> load(const std::filesystem::path& path) {
  if (std::filesystem::is_directory(path)) return load_tokenizer(path);
  IMPETUS_TRY(const auto file, GgufFile::open(path));
  return load_tokenizer(file);
}

double now() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: tokenizer_bench TEXT MODEL...\n");
    return 2;
  }
  const auto text = read_file(argv[1]);
  if (!text.ok()) {
    std::fprintf(stderr, "%s\n", text.error().message.c_str());
    return 1;
  }
  const double mib = static_cast<double>(text->size()) / (1 << 20);
  for (int i = 2; i < argc; ++i) {
    const double loading = now();
    const auto tokenizer = load(argv[i]);
    const double load_time = now() - loading;
    if (!tokenizer.ok()) {
      std::fprintf(stderr, "%s\n", tokenizer.error().message.c_str());
      return 1;
    }
    double first = 0, best = 0;
    size_t ids = 0;
    for (int round = 0; round < 5; ++round) {
      const double start = now();
      ids = (*tokenizer)->encode(*text).size();
      const double rate = mib / (now() - start);
      if (round == 0) first = rate;
      best = std::max(best, rate);
    }
    std::printf(
        "%-60s load %6.1f ms  first pass %6.1f MiB/s  best %6.1f MiB/s  %.2f bytes a token\n",
        argv[i], load_time * 1e3, first, best,
        static_cast<double>(text->size()) / static_cast<double>(ids));
  }
  return 0;
}
