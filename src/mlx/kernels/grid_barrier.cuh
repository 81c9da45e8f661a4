// How blocks of one launch wait for one another, all of which run at once.
namespace impetus {

// Blocks that wait for the others longer give up: another program on this GPU holds their places.
constexpr long long kPatience = 5000000000;  // ns

// A grid barrier: where THREADS of all blocks wait for all, again and again. `state`, zeros before
// the first launch: arrivals at a launch's first wait, which leave it as it was but for its highest
// bit; arrivals at the others; whether some gave up.
template <int THREADS>
class GridBarrier {
 public:
  __device__ explicit GridBarrier(unsigned* state) : state_(state) {}

  // A launch's first.
  __device__ void begin() {
    constexpr unsigned kPhase = 0x80000000u;  // changes when all have arrived
    barrier<THREADS>();
    if (threadIdx.x == 0) {
      const unsigned before = arrivals(state_);
      if (blockIdx.x == 0) state_[1] = 0;  // nobody is there before all have met
      arrive(state_, blockIdx.x == 0 ? kPhase - (gridDim.x - 1) : 1);
      until([&] { return ((before ^ arrivals(state_)) & kPhase) != 0; });
    }
    barrier<THREADS>();
  }
  // The others.
  __device__ void wait() {
    awaited_ += gridDim.x;
    barrier<THREADS>();
    if (threadIdx.x == 0) {
      arrive(state_ + 1, 1);
      until([&] { return arrivals(state_ + 1) >= awaited_; });
    }
    barrier<THREADS>();
  }
  __device__ bool gave_up() const { return arrivals(state_ + 2) != 0; }

 private:
  template <typename Done>
  __device__ void until(const Done& done) {
    constexpr int kTries = 4096;  // between looks at the clock, which take their time
    long long since = 0;
    for (int tries = 1; !done(); ++tries) {
      if (tries % kTries != 0) continue;
      if (gave_up()) return;
      const long long now = nanoseconds();
      if (since == 0) since = now;
      if (now - since > kPatience && !done()) arrive(state_ + 2, 1);
    }
  }

  unsigned* state_;
  unsigned awaited_ = 0;  // arrivals that were waited for
};

}  // namespace impetus
