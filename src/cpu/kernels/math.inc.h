// Elementary functions over `Simd`, which the including file has defined.
#pragma once

namespace impetus::cpu {
namespace {

// exp(x) for x <= 0, within 2 ulp; 0 below -87.33 (where the result would be denormal); NaN for
// NaN. x = n ln 2 + r, |r| <= ln 2 / 2, ln 2 in two parts; exp(r) by a polynomial of degree 6
// fitted to the relative error (3.8e-9 before rounding).
inline Simd::F exp_negative(Simd::F x) {
  using S = Simd;
  const S::F lowest = S::set1(-87.33f);
  S::F clamped = S::max(lowest, x);
  S::F n = S::round(S::mul(clamped, S::set1(1.44269504088896341f)));
  S::F r = S::fnma(n, S::set1(0x1.62e4p-1f), clamped);
  r = S::fnma(n, S::set1(0x1.7f7d1cp-20f), r);
  S::F p = S::set1(0x1.6a2430p-10f);
  p = S::fma(p, r, S::set1(0x1.1239e4p-7f));
  p = S::fma(p, r, S::set1(0x1.5558f2p-5f));
  p = S::fma(p, r, S::set1(0x1.555492p-3f));
  p = S::fma(p, r, S::set1(0x1.fffffcp-2f));
  p = S::fma(p, S::mul(r, r), r);
  p = S::add(p, S::set1(1.0f));
  S::F result = S::mul(p, S::power_of_two(n));
  return S::select_less(x, lowest, S::zero(), result);
}

// x / (1 + exp(-x)), through exp(-|x|) so that nothing overflows.
inline Simd::F times_sigmoid(Simd::F x, Simd::F at) {
  using S = Simd;
  S::F e = exp_negative(S::negative_abs(at));
  S::F top = S::select_less(at, S::zero(), e, S::set1(1.0f));
  return S::div(S::mul(x, top), S::add(S::set1(1.0f), e));
}

}  // namespace
}  // namespace impetus::cpu
