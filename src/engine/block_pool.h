// Which KV block belongs to whom, and which hold a prefix that may be found again. Logical only:
// the physical memory is KvStorage's. Pure; not thread-safe. Every operation is O(1) (find, publish
// and forget: O(block_tokens), in expectation).
//
// A full block's identity is its chain: (identity of the block before it, its tokens). A chain
// number is given once and never again, so the child of a block that was evicted can never be
// mistaken for the child of what came after it; and tokens are compared exactly, so a hash
// collision costs a comparison, never a wrong answer.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "backend/executor.h"

namespace impetus {

class BlockPool {
 public:
  using Chain = uint64_t;
  static constexpr Chain root = 0;  // before the first block

  // `hash_mask` narrows the hash so that tests can force collisions.
  BlockPool(int32_t blocks, int32_t block_tokens, uint64_t hash_mask = ~uint64_t{0});

  // A block with one owner and undefined content. Takes blocks that hold nothing first, then the
  // least recently used findable one (which is lost). Nothing where every block is owned.
  std::optional<BlockId> allocate();
  void retain(BlockId id);
  // The last owner's release leaves a published block findable until it is reused. Release a
  // sequence's blocks from its last to its first, so that children are reused before their parents.
  void release(BlockId id);

  struct Found {
    BlockId block = -1;
    Chain chain = root;
  };
  // The block whose content is `tokens` after `parent`; not retained. REQUIRES: block_tokens
  // tokens.
  std::optional<Found> find(Chain parent, std::span<const TokenId> tokens) const;

  // Says that `id`, owned by the caller and not published, now holds `tokens` after `parent`, for
  // good. Where another block holds the same already, the caller's ownership moves to that one and
  // `id` is released; use the block returned.
  Found publish(BlockId id, Chain parent, std::span<const TokenId> tokens);
  // Never found again (its content is in doubt); owners keep it. Ignored where it is not published.
  void forget(BlockId id);

  int32_t blocks() const { return static_cast<int32_t>(entries_.size()); }
  int32_t block_tokens() const { return block_tokens_; }
  int32_t available() const { return static_cast<int32_t>(empty_.size()) + cached_; }
  int32_t used() const { return blocks() - available(); }
  int32_t cached() const { return cached_; }  // available, but findable
  int32_t owners(BlockId id) const { return entries_[id].owners; }
  int64_t blocks_for(int64_t positions) const {
    return (positions + block_tokens_ - 1) / block_tokens_;
  }

  // What publish and find look under; also names a block that is still to be computed.
  uint64_t hash(Chain parent, std::span<const TokenId> tokens) const;

 private:
  static constexpr BlockId none = -1;
  struct Entry {
    int32_t owners = 0;
    Chain parent = root;
    Chain chain = root;  // root: not published
    uint64_t hash = 0;
    BlockId next_same = none;            // in its hash bucket
    BlockId older = none, newer = none;  // among the findable without owner
  };

  std::span<const TokenId> tokens_of(BlockId id) const;
  void unpublish(BlockId id);  // out of the hash table
  void append_newest(BlockId id);
  void unlink(BlockId id);

  int32_t block_tokens_;
  uint64_t hash_mask_;
  std::vector<Entry> entries_;
  std::vector<TokenId> tokens_;   // [blocks, block_tokens], of published blocks
  std::vector<BlockId> buckets_;  // power of two
  std::vector<BlockId> empty_;    // without owner or content
  BlockId oldest_ = none, newest_ = none;
  int32_t cached_ = 0;
  Chain next_chain_ = root + 1;
};

}  // namespace impetus
