#include "text/bpe.h"

#include <algorithm>
#include <atomic>
#include <functional>
#include <optional>
#include <queue>

#include "text/token_decoder.h"
#include "text/unicode.h"
#include "text/word_cache.h"

namespace impetus {
namespace {

constexpr size_t small_word = 64;
constexpr uint32_t no_rank = ~uint32_t{0};
constexpr std::string_view space_mark = "\xE2\x96\x81";  // U+2581

}  // namespace

uint32_t WordCache::new_owner() {
  static std::atomic<uint32_t> last{0};
  return ++last;
}

void Bpe::index_pieces(const std::vector<std::string_view>& pieces) {
  owner_ = WordCache::new_owner();
  byte_ids_.fill(-1);
  pseudo_begin_ = static_cast<TokenId>(pieces.size());
  for (size_t i = 0; i < pieces.size(); ++i) {
    const std::string_view piece = pieces[i];
    const auto id = static_cast<TokenId>(i);
    if (piece.empty()) continue;
    if (options_.byte_level) {
      if (piece.size() == 1) byte_ids_[static_cast<uint8_t>(piece[0])] = id;
      continue;
    }
    if (const int byte = byte_of_piece(piece); byte >= 0 && options_.byte_fallback) {
      byte_ids_[static_cast<size_t>(byte)] = id;
    }
    if (unicode::valid_prefix(piece) != piece.size()) continue;
    if (const auto [code, bytes] = unicode::decode(piece.data()); bytes == piece.size()) {
      characters_.set(code, id);
    }
  }
}

// Where no piece has U+2581 behind another character, no merge can cross the border before a run of
// U+2581, so the parts between such borders can be encoded (and remembered) one by one.
bool Bpe::splits_at_spaces(const std::vector<std::string_view>& pieces) const {
  if (options_.byte_level || characters_.find(0x2581) == nullptr) return false;
  for (const auto piece : pieces) {
    size_t at = piece.find(space_mark);
    if (at == std::string_view::npos) continue;
    if (at != 0) return false;
    while (piece.substr(at).starts_with(space_mark)) at += space_mark.size();
    if (piece.find(space_mark, at) != std::string_view::npos) return false;
  }
  return true;
}

Result<Bpe> Bpe::from_merges(const std::vector<std::string_view>& pieces,
                             std::span<const Merge> merges, Options options) {
  Bpe bpe;
  bpe.options_ = options;
  bpe.index_pieces(pieces);
  bpe.pairs_.reserve(merges.size());
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const Merge& merge = merges[rank];
    bpe.pairs_.set(static_cast<uint64_t>(merge.left) << 32 | static_cast<uint32_t>(merge.right),
                   Pair{static_cast<uint32_t>(rank), merge.merged});
  }
  if (options.ignore_merges) {
    IMPETUS_TRY(bpe.words_, Vocabulary::build(pieces));
  }
  bpe.options_.split_at_spaces = !options.ignore_merges && bpe.splits_at_spaces(pieces);
  return bpe;
}

Result<Bpe> Bpe::sentencepiece(const std::vector<std::string_view>& pieces,
                               std::span<const double> scores, const std::vector<bool>& mergeable,
                               Options options) {
  Bpe bpe;
  bpe.options_ = options;
  std::vector<std::string_view> usable(pieces.size());
  for (size_t i = 0; i < pieces.size(); ++i) {
    if (!mergeable[i] && byte_of_piece(pieces[i]) < 0) continue;
    if (unicode::valid_prefix(pieces[i]) != pieces[i].size()) {
      return error(ErrorCode::corrupt, "token {} is not valid UTF-8", i);
    }
    usable[i] = pieces[i];
  }
  bpe.index_pieces(usable);
  bpe.options_.split_at_spaces = bpe.splits_at_spaces(usable);

  // Equal scores share a rank: among them the leftmost pair wins.
  std::vector<double> order;
  for (size_t i = 0; i < pieces.size(); ++i) {
    if (mergeable[i]) order.push_back(scores[i]);
  }
  std::sort(order.begin(), order.end(), std::greater<>());
  order.erase(std::unique(order.begin(), order.end()), order.end());

  IMPETUS_TRY(const Vocabulary index, Vocabulary::build(pieces));
  TokenId pseudo = bpe.pseudo_begin_;
  // A symbol is a token that merging may produce, or a single character (with a pseudo id where it
  // is no token: SentencePiece merges by text, so it may still be part of one).
  const auto symbol = [&](std::string_view text) -> TokenId {
    const auto [code, bytes] = unicode::decode(text.data());
    if (bytes == text.size()) {
      if (const TokenId* id = bpe.characters_.find(code)) return *id;
      bpe.characters_.set(code, pseudo);
      return pseudo++;
    }
    const TokenId id = index.find(text);
    return id >= 0 && mergeable[static_cast<size_t>(id)] ? id : -1;
  };
  for (size_t i = 0; i < pieces.size(); ++i) {
    const std::string_view piece = pieces[i];
    if (!mergeable[i] || piece.size() < 2) continue;
    if (piece.size() > 1024) {
      return error(ErrorCode::corrupt, "token {} has {} bytes, more than the 1024 allowed", i,
                   piece.size());
    }
    const auto rank = static_cast<uint32_t>(
        std::lower_bound(order.begin(), order.end(), scores[i], std::greater<>()) - order.begin());
    for (size_t cut = unicode::decode(piece.data()).bytes; cut < piece.size();
         cut += unicode::decode(piece.data() + cut).bytes) {
      const TokenId left = symbol(piece.substr(0, cut));
      if (left < 0) continue;
      const TokenId right = symbol(piece.substr(cut));
      if (right < 0) continue;
      bpe.pairs_.set(static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right),
                     Pair{rank, static_cast<TokenId>(i)});
    }
  }
  return bpe;
}

int Bpe::missing_bytes() const {
  return static_cast<int>(std::count(byte_ids_.begin(), byte_ids_.end(), -1));
}

void Bpe::encode_word(std::string_view word, std::vector<TokenId>& out) const {
  if (!options_.split_at_spaces) return encode_cached(word, out);
  // "▁▁the▁cat" -> "▁▁the", "▁cat"
  size_t begin = 0;
  while (begin < word.size()) {
    size_t end = begin;
    while (word.substr(end).starts_with(space_mark)) end += space_mark.size();
    end = std::min(word.find(space_mark, end), word.size());
    encode_cached(word.substr(begin, end - begin), out);
    begin = end;
  }
}

void Bpe::encode_cached(std::string_view word, std::vector<TokenId>& out) const {
  if (word.size() > WordCache::bytes_max) return encode_uncached(word, out);
  bool hit = false;
  WordCache::Entry& entry = WordCache::of_this_thread().place(word, owner_, hit);
  if (hit) {
    out.insert(out.end(), entry.ids, entry.ids + entry.count);
    return;
  }
  const size_t before = out.size();
  encode_uncached(word, out);
  WordCache::fill(entry, word, owner_, std::span(out).subspan(before));
}

void Bpe::encode_uncached(std::string_view word, std::vector<TokenId>& out) const {
  if (word.empty()) return;
  if (options_.ignore_merges) {
    if (const TokenId id = words_.find(word); id >= 0) {
      out.push_back(id);
      return;
    }
  }
  // A character gives at most as many symbols as it has bytes.
  if (word.size() <= small_word) {
    Symbol symbols[small_word];
    const size_t count = merge_small(symbols, symbols_of(word, symbols));
    return emit(word, symbols, count, out);
  }
  std::vector<Symbol> symbols(word.size());
  symbols.resize(symbols_of(word, symbols.data()));
  const size_t count = symbols.size() <= small_word ? merge_small(symbols.data(), symbols.size())
                                                    : merge_large(symbols);
  emit(word, symbols.data(), count, out);
}

size_t Bpe::symbols_of(std::string_view word, Symbol* symbols) const {
  size_t count = 0;
  if (options_.byte_level) {
    for (size_t i = 0; i < word.size(); ++i) {
      TokenId id = byte_ids_[static_cast<uint8_t>(word[i])];
      if (id < 0) id = options_.unknown;
      if (id >= 0) symbols[count++] = {id, static_cast<uint32_t>(i)};
    }
    return count;
  }
  for (size_t i = 0; i < word.size();) {
    const auto [code, bytes] = unicode::decode(word.data() + i);
    if (const TokenId* id = characters_.find(code)) {
      symbols[count++] = {*id, static_cast<uint32_t>(i)};
    } else {
      count += fallback(word.substr(i, bytes), static_cast<uint32_t>(i), symbols + count);
    }
    i += bytes;
  }
  return count;
}

// The bytes of a character that is no token, all of them or (where one is missing) unknown.
size_t Bpe::fallback(std::string_view character, uint32_t begin, Symbol* symbols) const {
  if (options_.byte_fallback) {
    size_t n = 0;
    for (const char c : character) {
      const TokenId id = byte_ids_[static_cast<uint8_t>(c)];
      if (id < 0) break;
      symbols[n++] = {id, begin};
    }
    if (n == character.size()) return n;
  }
  if (options_.unknown < 0) return 0;
  symbols[0] = {options_.unknown, begin};
  return 1;
}

size_t Bpe::merge_small(Symbol* symbols, size_t count) const {
  uint32_t ranks[small_word];
  TokenId merged[small_word];
  const auto look = [&](size_t i) {
    const Pair* found = i + 1 < count ? pair(symbols[i].id, symbols[i + 1].id) : nullptr;
    ranks[i] = found ? found->rank : no_rank;
    merged[i] = found ? found->merged : -1;
  };
  for (size_t i = 0; i < count; ++i) look(i);
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i) {
      if (ranks[i] < ranks[best]) best = i;
    }
    if (ranks[best] == no_rank) break;
    symbols[best].id = merged[best];
    for (size_t i = best + 1; i + 1 < count; ++i) {
      symbols[i] = symbols[i + 1];
      ranks[i] = ranks[i + 1];
      merged[i] = merged[i + 1];
    }
    --count;
    look(best);
    if (best > 0) look(best - 1);
  }
  return count;
}

size_t Bpe::merge_large(std::vector<Symbol>& symbols) const {
  struct Link {
    int32_t previous, next;
  };
  struct Candidate {
    uint32_t rank;
    int32_t left;
    TokenId left_id, right_id, merged;
    bool operator>(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : left > other.left;
    }
  };
  const auto count = static_cast<int32_t>(symbols.size());
  std::vector<Link> links(symbols.size());
  std::vector<Candidate> heap;
  const auto id = [&](int32_t i) -> TokenId& { return symbols[static_cast<size_t>(i)].id; };
  const auto candidate = [&](int32_t left, int32_t right) -> std::optional<Candidate> {
    const Pair* found = pair(id(left), id(right));
    if (found == nullptr) return std::nullopt;
    return Candidate{found->rank, left, id(left), id(right), found->merged};
  };
  for (int32_t i = 0; i < count; ++i) {
    links[static_cast<size_t>(i)] = {i - 1, i + 1 < count ? i + 1 : -1};
    if (i + 1 < count) {
      if (const auto next = candidate(i, i + 1)) heap.push_back(*next);
    }
  }
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue(std::greater<>(),
                                                                               std::move(heap));
  while (!queue.empty()) {
    const Candidate top = queue.top();
    queue.pop();
    Link& left = links[static_cast<size_t>(top.left)];
    // Stale where one of the two has been merged into something else since.
    if (id(top.left) != top.left_id || left.next < 0 || id(left.next) != top.right_id) continue;
    const int32_t gone = left.next;
    id(top.left) = top.merged;
    id(gone) = -1;
    left.next = links[static_cast<size_t>(gone)].next;
    if (left.next >= 0) {
      links[static_cast<size_t>(left.next)].previous = top.left;
      if (const auto next = candidate(top.left, left.next)) queue.push(*next);
    }
    if (left.previous >= 0) {
      if (const auto next = candidate(left.previous, top.left)) queue.push(*next);
    }
  }
  // Compact: a live symbol has an id, the absorbed ones have -1.
  size_t kept = 0;
  for (int32_t i = 0; i >= 0 && i < count; i = links[static_cast<size_t>(i)].next) {
    symbols[kept++] = symbols[static_cast<size_t>(i)];
  }
  return kept;
}

void Bpe::emit(std::string_view word, const Symbol* symbols, size_t count,
               std::vector<TokenId>& out) const {
  bool unknown_before = false;
  const auto put = [&](TokenId id) {
    const bool unknown = id == options_.unknown;
    if (!(unknown && unknown_before && options_.fuse_unknown)) out.push_back(id);
    unknown_before = unknown;
  };
  for (size_t i = 0; i < count; ++i) {
    if (symbols[i].id < pseudo_begin_) {
      put(symbols[i].id);
      continue;
    }
    Symbol parts[4];
    const uint32_t begin = symbols[i].begin;
    const uint32_t bytes = unicode::decode(word.data() + begin).bytes;
    const size_t n = fallback(word.substr(begin, bytes), begin, parts);
    for (size_t k = 0; k < n; ++k) put(parts[k].id);
  }
}

}  // namespace impetus
