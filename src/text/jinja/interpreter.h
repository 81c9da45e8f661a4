// Runs a syntax tree. One object a render; used by one thread.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja/ast.h"
#include "text/jinja/budget.h"
#include "text/jinja/value.h"

namespace impetus::jinja {

struct Scope {
  std::shared_ptr<Scope> parent;
  std::vector<std::pair<std::string, Value>> variables;

  // Adds to `looked_at` how many variables it passed.
  const Value* find(std::string_view name, uint64_t& looked_at) const;
  void set(const std::string& name, Value value);
};

class Interpreter {
 public:
  Interpreter() = default;
  ~Interpreter();
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  // `variables` are the template's input, beside the global functions. Fails with TemplateError.
  // REQUIRES: called once.
  std::string render(const Body& body, std::vector<std::pair<std::string, Value>> variables);

  // For filters, tests, methods and global functions:
  Budget& budget() { return budget_; }
  Value call(const Value& callee, Arguments& arguments);
  Value apply_filter(std::string_view name, const Value& subject, Arguments& arguments);
  bool apply_test(std::string_view name, const Value& subject, Arguments& arguments);
  Value make_namespace(Dict attributes);
  Value call_macro(const Macro& macro, const std::shared_ptr<Scope>& closure, Arguments& arguments);
  std::string text(const Value& value) { return to_text(value, budget_); }

 private:
  enum class Flow : uint8_t { normal, loop_break, loop_continue };
  class ScopeGuard;

  Flow run(const Body& body);
  Flow run(const Statement& statement);
  Flow run_loop(const Statement& statement);
  Flow run_branch(const Statement& statement);
  void run_capture(const Statement& statement);
  void run_call_block(const Statement& statement);
  void run_filter_block(const Statement& statement);
  void run_with(const Statement& statement);
  void print(const Value& value);
  void emit(std::string_view text);
  std::string captured(const Body& body);
  void assign(const Target& target, Value value);

  Value evaluate(const Expression& node);
  Value evaluate_name(const Expression& node);
  Value evaluate_items(const Expression& node);
  Value evaluate_dict(const Expression& node);
  Value evaluate_unary(const Expression& node);
  Value evaluate_binary(const Expression& node);
  Value evaluate_concatenation(const Expression& node);
  Value evaluate_comparison(const Expression& node);
  Value evaluate_attribute(const Expression& node);
  Value evaluate_item(const Expression& node);
  Value evaluate_slice(const Expression& node);
  Value evaluate_call(const Expression& node, Value caller);
  Value evaluate_filter(const Expression& node, const Value* block);
  Value evaluate_test(const Expression& node);
  Arguments evaluate_arguments(const CallArguments& arguments);
  Value make_macro(const Macro& macro);
  const Value* find_variable(std::string_view name);

  Budget budget_;
  int depth_ = 0;
  int loops_ = 0;
  Position here_;  // of the node that runs: where an error happened
  std::shared_ptr<Scope> scope_;
  std::string* output_ = nullptr;
  // What can form cycles, cleared at the end: macros live in scopes that they hold, namespaces may
  // hold themselves.
  std::vector<std::shared_ptr<Scope>> closures_;
  std::vector<std::shared_ptr<Namespace>> namespaces_;
};

}  // namespace impetus::jinja
