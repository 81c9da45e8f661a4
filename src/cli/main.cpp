#include <cstdio>

int main() {
  std::puts("impetus 0.1.0");
  return 0;
}
