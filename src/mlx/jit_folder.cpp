#include "mlx/jit_folder.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <optional>
#include <random>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "base/log.h"
#include "base/mapped_file.h"
#include "base/replace_file.h"
#include "base/sha256.h"

namespace impetus::mlx_backend {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kCode = ".ptx", kKernels = ".txt", kText = ".cu", kSeal = ".seal";
constexpr std::string_view kRun = "run-", kLock = ".lock";
constexpr size_t kDigits = 64;                        // of a SHA-256
constexpr size_t kNameMax = 4096;                     // bytes; a path's
constexpr uintmax_t kEntryMax = uintmax_t{64} << 20;  // bytes; none of MLX's comes near
constexpr auto kUnusedMax = std::chrono::hours(24 * 90);
constexpr auto kSealingMax = std::chrono::hours(1);

fs::path with(fs::path path, std::string_view ending) {
  return path += ending;
}

// Empty where there is none; nullopt where it cannot be read.
std::optional<std::string> read(const fs::path& path) {
  std::error_code code;
  if (!fs::exists(path, code)) return code ? std::nullopt : std::optional(std::string());
  auto whole = read_file(path, kEntryMax);
  return whole.ok() ? std::optional(std::move(*whole)) : std::nullopt;
}

// MLX does not look whether what it wrote was written. An ELF file says how long it is, by its
// tables (https://refspecs.linuxfoundation.org/elf/elf.pdf, ELF-64 object file format); a text of
// PTX ends with a function.
bool is_whole(std::string_view code) {
  constexpr size_t kHeader = 64;
  if (code.starts_with("\x7f"
                       "ELF")) {
    if (code.size() < kHeader) return false;
    const auto number = [&]<typename T>(size_t at, T value) {
      std::memcpy(&value, code.data() + at, sizeof value);
      return uint64_t{value};
    };
    const auto ends_within = [&](uint64_t begin, uint64_t size, uint64_t count) {
      return begin <= code.size() && size * count <= code.size() - begin;
    };
    return ends_within(number(32, uint64_t{}), number(54, uint16_t{}), number(56, uint16_t{})) &&
           ends_within(number(40, uint64_t{}), number(58, uint16_t{}), number(60, uint16_t{}));
  }
  const size_t last = code.find_last_not_of(std::string_view("\0\n\r\t ", 5));
  return last != std::string_view::npos && code[last] == '}';
}

std::string digest_of(const std::string& name, const std::string& code,
                      const std::string& kernels) {
  // Lengths, so that no byte moves from one to the next.
  return Sha256()
      .add(fmt::format("{} {} {} ", name.size(), code.size(), kernels.size()))
      .add(name)
      .add(code)
      .add(kernels)
      .hex();
}

// Within the folder, and nowhere else.
bool is_entry_name(const std::string& name) {
  if (name.empty() || name.size() > kNameMax) return false;
  const fs::path path(name);
  return path.is_relative() && path.has_filename() && path != "." && *path.begin() != ".." &&
         path == path.lexically_normal();
}

// A file under a second name; copied where the file system knows no links.
bool link(const fs::path& from, const fs::path& to) {
  std::error_code code;
  fs::create_hard_link(from, to, code);
  if (code) fs::copy_file(from, to, fs::copy_options::overwrite_existing, code);
  if (!code) return true;
  fs::remove(to, code);  // half of it
  return false;
}

std::vector<fs::path> paths_in(const fs::path& folder) {
  std::vector<fs::path> found;
  std::error_code code;
  for (fs::directory_iterator at(folder, code), end; !code && at != end; at.increment(code)) {
    found.push_back(at->path());
  }
  return found;
}

std::vector<fs::path> paths_in(const fs::path& folder, std::string_view ending) {
  auto found = paths_in(folder);
  std::erase_if(found, [&](const fs::path& path) { return path.extension() != ending; });
  return found;
}

bool older_than(const fs::path& path, fs::file_time_type::duration age) {
  std::error_code gone;
  const auto time = fs::last_write_time(path, gone);
  return !gone && time < fs::file_time_type::clock::now() - age;
}

void remove_entry(const fs::path& seal) {
  std::error_code ignored;
  for (const std::string_view ending : {kSeal, kKernels, kCode}) {
    fs::remove(fs::path(seal).replace_extension(ending), ignored);
  }
}

// Runs whose processes are gone go. Whether one is there yet.
bool remove_runs(const fs::path& folder) {
  std::error_code code;
  bool living = false;
  for (const fs::path& lock : paths_in(folder, kLock)) {
    auto taken = FileLock::try_take(lock, FileLock::Kind::exclusive);
    if (!taken.ok() || !*taken) {
      living = true;
      continue;
    }
    fs::remove_all(fs::path(lock).replace_extension(), code);
    if (!code) (*taken)->remove_file();
  }
  return living;
}

// Keys whose MLX is no longer there; and of this one, what programs left that were ended while they
// sealed.
void remove_unused(const fs::path& root, const fs::path& used) {
  std::error_code ignored;
  for (const fs::path& path : paths_in(root)) {
    if (path != used && older_than(path, kUnusedMax) && !remove_runs(path)) {
      fs::remove_all(path, ignored);
    }
  }
  for (const fs::path& path : paths_in(used)) {
    const std::string file = path.filename().string();
    if (file.starts_with(kRun) || !older_than(path, kSealingMax)) continue;
    const fs::path seal = with(used / file.substr(0, file.find('.')), kSeal);
    const bool whole =
        path.extension() == kCode || path.extension() == kKernels || path.extension() == kSeal;
    if (!whole || !fs::exists(seal, ignored)) fs::remove(path, ignored);
  }
}

}  // namespace

std::string JitFolder::new_run() {
  std::random_device random;
  return fmt::format("{}{:08x}{:08x}", kRun, random(), random());
}

Result<std::unique_ptr<JitFolder>> JitFolder::open(const fs::path& root, const std::string& key,
                                                   const std::string& run, uintmax_t bytes_max) {
  std::unique_ptr<JitFolder> made(new JitFolder(root / key, bytes_max));
  IMPETUS_CHECK(made->take(run));
  remove_unused(root, made->folder_);
  made->fill();
  return made;
}

JitFolder::~JitFolder() {
  if (run_.empty()) return;
  std::error_code code;
  fs::remove_all(run_, code);
  if (!code) lock_.remove_file();
}

Result<void> JitFolder::take(const std::string& name) {
  std::error_code code;
  fs::create_directories(folder_, code);
  if (code) {
    return error(ErrorCode::io, "{} cannot be made: {}", folder_.string(), code.message());
  }
  remove_runs(folder_);
  const fs::path run = folder_ / name;
  // Waits for one that takes it for a dead process's.
  IMPETUS_TRY(lock_, FileLock::take(with(run, kLock), FileLock::Kind::exclusive));
  if (!fs::create_directory(run, code)) {
    lock_.remove_file();
    return error(ErrorCode::io, "{} cannot be made: {}", run.string(),
                 code ? code.message() : "it is there");
  }
  run_ = run;
  return {};
}

void JitFolder::fill() {
  for (const fs::path& seal : paths_in(folder_, kSeal)) {
    const fs::path code = fs::path(seal).replace_extension(kCode),
                   kernels = fs::path(seal).replace_extension(kKernels);
    const auto said = read(seal), code_read = read(code), kernels_read = read(kernels);
    if (!said || !code_read || !kernels_read) continue;  // another user's
    const std::string name = said->substr(std::min(said->size(), kDigits));
    if (!is_entry_name(name) ||
        digest_of(name, *code_read, *kernels_read) != std::string_view(*said).substr(0, kDigits)) {
      remove_entry(seal);
      continue;
    }
    std::error_code ignored;
    fs::create_directories((run_ / name).parent_path(), ignored);
    // MLX takes an entry for one when its code is there, and writes anew over what else there is.
    if (!link(kernels, with(run_ / name, kKernels))) continue;
    if (link(code, with(run_ / name, kCode))) {
      sealed_.insert(name);
    } else {
      fs::remove(with(run_ / name, kKernels), ignored);
    }
  }
}

void JitFolder::seal() {
  std::vector<std::string> fresh;
  std::error_code code;
  for (fs::recursive_directory_iterator at(run_, code), end; !code && at != end;
       at.increment(code)) {
    if (at->path().extension() != kCode) continue;
    std::string name = at->path().lexically_relative(run_).replace_extension().string();
    if (!sealed_.contains(name)) fresh.push_back(std::move(name));
  }
  bool kept = false;
  for (const std::string& name : fresh) kept = seal(name) || kept;
  if (kept) bound();
}

bool JitFolder::seal(const std::string& name) {
  const fs::path made = run_ / name;
  const std::string code = read(with(made, kCode)).value_or(""),
                    kernels = read(with(made, kKernels)).value_or("");
  // The text is written last.
  if (!is_whole(code) || !kernels.ends_with('\n') || read(with(made, kText)).value_or("").empty()) {
    return false;
  }
  sealed_.insert(name);
  const fs::path base = folder_ / Sha256().add(name).hex();
  const auto written = [&](std::string_view ending, std::string_view bytes) {
    const auto done = replace_file(with(base, ending), bytes);
    if (!done.ok()) log::debug("{}", done.error().message);
    return done.ok();
  };
  return written(kCode, code) && written(kKernels, kernels) &&
         written(kSeal, digest_of(name, code, kernels) + name);
}

void JitFolder::bound() const {
  struct Entry {
    fs::file_time_type sealed_at;
    uintmax_t bytes;
    fs::path seal;
  };
  std::vector<Entry> entries;
  uintmax_t bytes = 0;
  for (const fs::path& seal : paths_in(folder_, kSeal)) {
    std::error_code gone;  // another process does the same
    const auto time = fs::last_write_time(seal, gone);
    const uintmax_t size = gone ? 0 : fs::file_size(fs::path(seal).replace_extension(kCode), gone);
    if (gone) continue;
    entries.push_back({time, size, seal});
    bytes += size;
  }
  std::ranges::sort(entries, {}, &Entry::sealed_at);
  for (const Entry& entry : entries) {
    if (bytes <= bytes_max_) break;
    remove_entry(entry.seal);
    bytes -= entry.bytes;
  }
}

}  // namespace impetus::mlx_backend
