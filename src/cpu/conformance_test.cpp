// The conformance suite on every instruction set of this machine.
#include "cpu/test_support.h"
#include "tests/conformance/decoders.h"
#include "tests/conformance/encoders.h"
#include "tests/conformance/files.h"

namespace impetus::conformance {
namespace {

std::vector<Subject> subjects() {
  std::vector<Subject> all;
  for (const std::string& isa : cpu::instruction_sets()) {
    Subject subject;
    subject.name = isa;
    subject.make = [isa](int threads) { return cpu::backend_of(isa, threads); };
    subject.threads = {1, 2, 3, 4};
    if (isa != "reference") {
      subject.partner = [] { return cpu::backend_of("reference", 1); };
    }
    all.push_back(std::move(subject));
  }
  return all;
}

const auto name_of = [](const auto& info) { return info.param.name; };
INSTANTIATE_TEST_SUITE_P(Cpu, Conformance, ::testing::ValuesIn(subjects()), name_of);
INSTANTIATE_TEST_SUITE_P(Cpu, Refusals, ::testing::ValuesIn(subjects()), name_of);

}  // namespace
}  // namespace impetus::conformance
