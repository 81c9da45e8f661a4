#include "text/jinja/interpreter.h"

#include <algorithm>

#include "text/jinja/builtins.h"
#include "text/jinja/operators.h"
#include "text/jinja/python_text.h"

namespace impetus::jinja {
namespace {

struct MacroObject : Callable {
  const Macro* macro = nullptr;
  std::shared_ptr<Scope> closure;
  Value call(Interpreter& interpreter, Arguments& arguments) override {
    return interpreter.call_macro(*macro, closure, arguments);
  }
};

uint64_t made_bytes(const Value& value) {
  if (value.is_string()) return value.as_string().size() + 64;
  if (value.is_sequence()) return value.as_sequence().items.size() * sizeof(Value) + 64;
  if (value.is(Kind::dict)) return value.as_dict().size() * 3 * sizeof(Value) + 64;
  return 8;
}

}  // namespace

const Value* Scope::find(std::string_view name, uint64_t& looked_at) const {
  for (const Scope* scope = this; scope != nullptr; scope = scope->parent.get()) {
    looked_at += scope->variables.size();
    for (const auto& [key, value] : scope->variables) {
      if (key == name) return &value;
    }
  }
  return nullptr;
}

void Scope::set(const std::string& name, Value value) {
  for (auto& [key, old] : variables) {
    if (key == name) {
      old = std::move(value);
      return;
    }
  }
  variables.emplace_back(name, std::move(value));
}

// A fresh scope inside the current one (or inside `parent`) for as long as it lives.
class Interpreter::ScopeGuard {
 public:
  explicit ScopeGuard(Interpreter& interpreter) : ScopeGuard(interpreter, interpreter.scope_) {}
  ScopeGuard(Interpreter& interpreter, std::shared_ptr<Scope> parent)
      : interpreter_(interpreter), outer_(interpreter.scope_) {
    auto scope = std::make_shared<Scope>();
    scope->parent = std::move(parent);
    interpreter_.scope_ = std::move(scope);
  }
  ~ScopeGuard() { interpreter_.scope_ = std::move(outer_); }
  ScopeGuard(const ScopeGuard&) = delete;
  ScopeGuard& operator=(const ScopeGuard&) = delete;

 private:
  Interpreter& interpreter_;
  std::shared_ptr<Scope> outer_;
};

Interpreter::~Interpreter() {
  // Every closure and namespace is still held by these lists while its content goes, so no chain of
  // them, however long, is destroyed recursively.
  for (const auto& scope : closures_) scope->variables.clear();
  for (const auto& space : namespaces_) space->attributes = Dict();
}

std::string Interpreter::render(const Body& body,
                                std::vector<std::pair<std::string, Value>> variables) {
  std::string output;
  output_ = &output;
  scope_ = std::make_shared<Scope>();
  scope_->variables = global_functions();
  if (variables.size() > Limits::variables) {
    fail("{} template variables, more than {}", variables.size(), Limits::variables);
  }
  for (auto& [name, value] : variables) scope_->set(name, std::move(value));
  try {
    ScopeGuard root(*this);
    run(body);
  } catch (TemplateError& failure) {
    if (failure.line == 0) {
      failure.line = here_.line;
      failure.column = here_.column;
    }
    throw;
  }
  return output;
}

// --- statements

Interpreter::Flow Interpreter::run(const Body& body) {
  for (const auto& statement : body) {
    if (const Flow flow = run(*statement); flow != Flow::normal) return flow;
  }
  return Flow::normal;
}

Interpreter::Flow Interpreter::run(const Statement& statement) {
  DepthGuard guard(depth_, Limits::runtime_depth, "the template's execution");
  budget_.step();
  here_ = statement.position;
  using Type = Statement::Type;
  switch (statement.type) {
    case Type::text:
      emit(statement.text);
      return Flow::normal;
    case Type::print:
      print(evaluate(*statement.expression));
      return Flow::normal;
    case Type::branch:
      return run_branch(statement);
    case Type::loop:
      return run_loop(statement);
    case Type::assign:
      assign(statement.target, evaluate(*statement.expression));
      return Flow::normal;
    case Type::capture:
      run_capture(statement);
      return Flow::normal;
    case Type::macro:
      scope_->set(statement.macro->name, make_macro(*statement.macro));
      return Flow::normal;
    case Type::call:
      run_call_block(statement);
      return Flow::normal;
    case Type::filter:
      run_filter_block(statement);
      return Flow::normal;
    case Type::scope:
      run_with(statement);
      return Flow::normal;
    case Type::generation: {
      ScopeGuard scope(*this);
      return run(statement.body);
    }
    case Type::loop_break:
      return Flow::loop_break;
    case Type::loop_continue:
      return Flow::loop_continue;
  }
  return Flow::normal;
}

Interpreter::Flow Interpreter::run_branch(const Statement& statement) {
  for (const auto& [condition, body] : statement.branches) {
    if (truthy(evaluate(*condition))) return run(body);
  }
  return run(statement.otherwise);
}

Interpreter::Flow Interpreter::run_loop(const Statement& statement) {
  const Value source = evaluate(*statement.expression);
  here_ = statement.position;
  auto loop = std::make_shared<Loop>();
  loop->items = iterate(source, budget_);
  if (statement.condition) {
    std::vector<Value> kept;
    for (Value& item : loop->items) {
      ScopeGuard scope(*this);
      assign(statement.target, item);
      if (truthy(evaluate(*statement.condition))) kept.push_back(std::move(item));
    }
    loop->items = std::move(kept);
  }
  for (const Value& item : loop->items) {
    if (item.depth() >= Limits::value_depth) fail("a loop's items nest too deeply");
    loop->depth = std::max(loop->depth, item.depth() + 1);
  }
  loop->level = ++loops_;
  Flow flow = Flow::normal;
  for (size_t i = 0; i < loop->items.size() && flow != Flow::loop_break; ++i) {
    loop->index0 = i;
    ScopeGuard scope(*this);
    assign(statement.target, loop->items[i]);
    scope_->set("loop", Value::object(Kind::loop, loop));
    flow = run(statement.body);
  }
  --loops_;
  if (loop->items.empty()) {
    ScopeGuard scope(*this);
    return run(statement.otherwise);
  }
  return Flow::normal;
}

void Interpreter::run_capture(const Statement& statement) {
  std::string text;
  {
    ScopeGuard scope(*this);
    text = captured(statement.body);
  }
  Value value = Value::string(std::move(text));
  if (statement.expression) value = evaluate_filter(*statement.expression, &value);
  assign(statement.target, std::move(value));
}

void Interpreter::run_call_block(const Statement& statement) {
  print(evaluate_call(*statement.expression, make_macro(*statement.macro)));
}

void Interpreter::run_filter_block(const Statement& statement) {
  std::string text;
  {
    ScopeGuard scope(*this);
    text = captured(statement.body);
  }
  const Value value = Value::string(std::move(text));
  print(evaluate_filter(*statement.expression, &value));
}

void Interpreter::run_with(const Statement& statement) {
  std::vector<Value> values;  // all of them see the outer scope
  for (const auto& assignment : statement.assignments)
    values.push_back(evaluate(*assignment.second));
  ScopeGuard scope(*this);
  for (size_t i = 0; i < values.size(); ++i)
    assign(statement.assignments[i].first, std::move(values[i]));
  run(statement.body);
}

void Interpreter::print(const Value& value) {
  if (value.is_string()) {
    emit(value.as_string());
  } else {
    emit(text(value));
  }
}

void Interpreter::emit(std::string_view text) {
  if (text.size() > Limits::output_bytes - output_->size()) {
    fail("the rendered prompt is larger than {} MiB", Limits::output_bytes >> 20);
  }
  budget_.take(text.size());
  output_->append(text);
}

std::string Interpreter::captured(const Body& body) {
  struct Redirect {
    Redirect(std::string*& slot, std::string* target) : slot(slot), outer(slot) { slot = target; }
    ~Redirect() { slot = outer; }
    std::string*& slot;
    std::string* outer;
  };
  std::string text;
  Redirect redirect(output_, &text);
  run(body);
  return text;
}

void Interpreter::assign(const Target& target, Value value) {
  if (!target.parts.empty()) {
    here_ = target.position;
    require_defined(value);
    std::vector<Value> items = iterate(value, budget_);
    if (items.size() != target.parts.size()) {
      fail("{} values to unpack (expected {}, got {})",
           items.size() < target.parts.size() ? "not enough" : "too many", target.parts.size(),
           items.size());
    }
    for (size_t i = 0; i < items.size(); ++i) assign(target.parts[i], std::move(items[i]));
  } else if (target.attribute.empty()) {
    budget_.step(scope_->variables.size() / 16);
    scope_->set(target.name, std::move(value));
  } else {
    here_ = target.position;
    const Value* space = find_variable(target.name);
    if (space == nullptr || !space->is(Kind::name_space)) {
      fail("cannot assign attribute '{}': '{}' is not a namespace", target.attribute, target.name);
    }
    budget_.take(sizeof(Value));
    space->as_namespace().attributes.set(Value::string(target.attribute), std::move(value));
  }
}

// --- expressions

Value Interpreter::evaluate(const Expression& node) {
  DepthGuard guard(depth_, Limits::runtime_depth, "the template's execution");
  budget_.step();
  here_ = node.position;
  switch (node.operation) {
    case Operation::constant:
      return node.constant;
    case Operation::name:
      return evaluate_name(node);
    case Operation::list:
    case Operation::tuple:
      return evaluate_items(node);
    case Operation::dict:
      return evaluate_dict(node);
    case Operation::negate:
    case Operation::positive:
    case Operation::logical_not:
      return evaluate_unary(node);
    case Operation::logical_and: {
      Value left = evaluate(*node.operands[0]);
      return truthy(left) ? evaluate(*node.operands[1]) : left;
    }
    case Operation::logical_or: {
      Value left = evaluate(*node.operands[0]);
      return truthy(left) ? left : evaluate(*node.operands[1]);
    }
    case Operation::add:
    case Operation::subtract:
    case Operation::multiply:
    case Operation::divide:
    case Operation::floor_divide:
    case Operation::modulo:
    case Operation::power:
      return evaluate_binary(node);
    case Operation::concatenate:
      return evaluate_concatenation(node);
    case Operation::compare:
      return evaluate_comparison(node);
    case Operation::conditional:
      if (truthy(evaluate(*node.operands[0]))) return evaluate(*node.operands[1]);
      if (node.operands[2]) return evaluate(*node.operands[2]);
      return Value::undefined("the inline if evaluated to false and has no else");
    case Operation::attribute:
      return evaluate_attribute(node);
    case Operation::item:
      return evaluate_item(node);
    case Operation::slice:
      return evaluate_slice(node);
    case Operation::call:
      return evaluate_call(node, Value());
    case Operation::filter:
      return evaluate_filter(node, nullptr);
    case Operation::test:
      return evaluate_test(node);
  }
  return Value();
}

const Value* Interpreter::find_variable(std::string_view name) {
  uint64_t looked_at = 0;
  const Value* value = scope_->find(name, looked_at);
  budget_.step(looked_at / 16);
  return value;
}

Value Interpreter::evaluate_name(const Expression& node) {
  if (const Value* value = find_variable(node.text)) return *value;
  return Value::undefined(fmt::format("'{}' is undefined", shortened(node.text)));
}

Value Interpreter::evaluate_items(const Expression& node) {
  std::vector<Value> items;
  items.reserve(node.operands.size());
  for (const auto& operand : node.operands) items.push_back(evaluate(*operand));
  budget_.take(items.size() * sizeof(Value) + 64);
  return node.operation == Operation::list ? Value::list(std::move(items))
                                           : Value::tuple(std::move(items));
}

Value Interpreter::evaluate_dict(const Expression& node) {
  Dict entries;
  for (size_t i = 0; i + 1 < node.operands.size(); i += 2) {
    Value key = evaluate(*node.operands[i]);
    entries.set(std::move(key), evaluate(*node.operands[i + 1]));
  }
  budget_.take(entries.size() * 3 * sizeof(Value) + 64);
  return Value::dict(std::move(entries));
}

Value Interpreter::evaluate_unary(const Expression& node) {
  const Value value = evaluate(*node.operands[0]);
  here_ = node.position;
  if (node.operation == Operation::logical_not) return Value::boolean(!truthy(value));
  return node.operation == Operation::negate ? negate(value) : positive(value);
}

Value Interpreter::evaluate_binary(const Expression& node) {
  const Value left = evaluate(*node.operands[0]);
  const Value right = evaluate(*node.operands[1]);
  here_ = node.position;
  return arithmetic(node.operation, left, right, budget_);
}

Value Interpreter::evaluate_concatenation(const Expression& node) {
  std::string joined;
  for (const auto& operand : node.operands) {
    const Value value = evaluate(*operand);
    if (value.is_string()) {
      budget_.take(value.as_string().size());
      joined += value.as_string();
    } else {
      joined += text(value);
    }
  }
  budget_.take(joined.size() + 64);
  return Value::string(std::move(joined));
}

Value Interpreter::evaluate_comparison(const Expression& node) {
  Value left = evaluate(*node.operands[0]);
  for (size_t i = 0; i < node.comparisons.size(); ++i) {
    Value right = evaluate(*node.operands[i + 1]);
    here_ = node.position;
    if (!compare_as(node.comparisons[i], left, right, budget_)) return Value::boolean(false);
    left = std::move(right);
  }
  return Value::boolean(true);
}

Value Interpreter::evaluate_attribute(const Expression& node) {
  const Value object = evaluate(*node.operands[0]);
  here_ = node.position;
  return get_attribute(object, node.text, budget_);
}

Value Interpreter::evaluate_item(const Expression& node) {
  const Value object = evaluate(*node.operands[0]);
  const Value key = evaluate(*node.operands[1]);
  here_ = node.position;
  return get_item(object, key, budget_);
}

Value Interpreter::evaluate_slice(const Expression& node) {
  const Value object = evaluate(*node.operands[0]);
  Value bounds[3];
  const Value* given[3] = {};
  for (size_t i = 0; i < 3; ++i) {
    if (!node.operands[i + 1]) continue;
    bounds[i] = evaluate(*node.operands[i + 1]);
    given[i] = &bounds[i];
  }
  here_ = node.position;
  Value result = get_slice(object, given[0], given[1], given[2], budget_);
  budget_.take(made_bytes(result));
  return result;
}

Arguments Interpreter::evaluate_arguments(const CallArguments& nodes) {
  Arguments arguments;
  for (const auto& node : nodes.positional) arguments.positional.push_back(evaluate(*node));
  if (nodes.star) {
    for (Value& value : iterate(evaluate(*nodes.star), budget_)) {
      arguments.positional.push_back(std::move(value));
    }
  }
  const auto add = [&](std::string name, Value value) {
    for (const auto& [other, _] : arguments.named) {
      if (other == name) fail("the argument '{}' is given twice", name);
    }
    arguments.named.emplace_back(std::move(name), std::move(value));
  };
  for (const auto& [name, node] : nodes.named) add(name, evaluate(*node));
  if (nodes.star_star) {
    const Value value = evaluate(*nodes.star_star);
    if (!value.is(Kind::dict)) fail("** needs a mapping, not a '{}'", type_name(value));
    for (const auto& [key, item] : value.as_dict().entries()) {
      if (!key.is_string()) fail("keywords must be strings");
      add(key.as_string(), item);
      if (arguments.named.size() > 1000) fail("more than 1000 named arguments");
    }
  }
  return arguments;
}

Value Interpreter::evaluate_call(const Expression& node, Value caller) {
  const Value callee = evaluate(*node.operands[0]);
  Arguments arguments = evaluate_arguments(node.arguments);
  if (!caller.is_undefined()) arguments.named.emplace_back("caller", std::move(caller));
  here_ = node.position;
  return call(callee, arguments);
}

Value Interpreter::evaluate_filter(const Expression& node, const Value* block) {
  const Value subject = !node.operands[0] ? *block
                        : node.operands[0]->operation == Operation::filter && block != nullptr
                            ? evaluate_filter(*node.operands[0], block)
                            : evaluate(*node.operands[0]);
  Arguments arguments = evaluate_arguments(node.arguments);
  here_ = node.position;
  return apply_filter(node.text, subject, arguments);
}

Value Interpreter::evaluate_test(const Expression& node) {
  const Value subject = evaluate(*node.operands[0]);
  Arguments arguments = evaluate_arguments(node.arguments);
  here_ = node.position;
  return Value::boolean(apply_test(node.text, subject, arguments));
}

// --- calls

Value Interpreter::call(const Value& callee, Arguments& arguments) {
  require_defined(callee);
  if (!callee.is(Kind::callable)) fail("'{}' object is not callable", type_name(callee));
  DepthGuard guard(depth_, Limits::runtime_depth, "the template's execution");
  const Position here = here_;
  Value result = callee.as_callable().call(*this, arguments);
  here_ = here;  // a macro's body has moved it
  budget_.take(made_bytes(result));
  return result;
}

Value Interpreter::apply_filter(std::string_view name, const Value& subject, Arguments& arguments) {
  const Filter filter = find_filter(name);
  if (filter == nullptr) fail("no filter is named '{}'", name);
  DepthGuard guard(depth_, Limits::runtime_depth, "the template's execution");
  Value result = filter(*this, subject, arguments);
  budget_.take(made_bytes(result));
  return result;
}

bool Interpreter::apply_test(std::string_view name, const Value& subject, Arguments& arguments) {
  const Test test = find_test(name);
  if (test == nullptr) fail("no test is named '{}'", name);
  return test(*this, subject, arguments);
}

Value Interpreter::make_namespace(Dict attributes) {
  budget_.take(sizeof(Namespace) + attributes.size() * 3 * sizeof(Value));
  auto space = std::make_shared<Namespace>();
  space->attributes = std::move(attributes);
  namespaces_.push_back(space);
  return Value::object(Kind::name_space, std::move(space));
}

Value Interpreter::make_macro(const Macro& macro) {
  budget_.take(sizeof(MacroObject) + 64);
  auto object = std::make_shared<MacroObject>();
  object->name = macro.name;
  object->macro = &macro;
  object->closure = scope_;
  if (closures_.empty() || closures_.back() != scope_) closures_.push_back(scope_);
  return Value::object(Kind::callable, std::move(object));
}

Value Interpreter::call_macro(const Macro& macro, const std::shared_ptr<Scope>& closure,
                              Arguments& arguments) {
  ScopeGuard scope(*this, closure);
  const size_t expected = macro.parameters.size();
  std::vector<bool> given(expected, false);
  for (size_t i = 0; i < std::min(expected, arguments.positional.size()); ++i) {
    scope_->set(macro.parameters[i].first, arguments.positional[i]);
    given[i] = true;
  }
  Dict rest;
  for (auto& [name, value] : arguments.named) {
    const auto parameter = std::find_if(macro.parameters.begin(), macro.parameters.end(),
                                        [&](const auto& p) { return p.first == name; });
    if (parameter != macro.parameters.end()) {
      const auto i = static_cast<size_t>(parameter - macro.parameters.begin());
      if (given[i]) fail("macro '{}' got '{}' twice", macro.name, name);
      scope_->set(name, value);
      given[i] = true;
    } else if (name == "caller" && macro.uses_caller) {
      scope_->set(name, value);
    } else if (macro.uses_kwargs) {
      rest.set(Value::string(name), value);
    } else {
      fail("macro '{}' takes no keyword argument '{}'", macro.name, name);
    }
  }
  if (arguments.positional.size() > expected && !macro.uses_varargs) {
    fail("macro '{}' takes not more than {} argument(s)", macro.name, expected);
  }
  if (macro.uses_varargs) {
    std::vector<Value> more;
    if (arguments.positional.size() > expected) {
      more.assign(arguments.positional.begin() + static_cast<std::ptrdiff_t>(expected),
                  arguments.positional.end());
    }
    scope_->set("varargs", Value::tuple(std::move(more)));
  }
  if (macro.uses_kwargs) scope_->set("kwargs", Value::dict(std::move(rest)));
  if (macro.uses_caller &&
      scope_->variables.end() == std::find_if(scope_->variables.begin(), scope_->variables.end(),
                                              [](const auto& v) { return v.first == "caller"; })) {
    scope_->set("caller", Value::undefined("no caller defined"));
  }
  for (size_t i = 0; i < expected; ++i) {
    if (given[i]) continue;
    const auto& [name, fallback] = macro.parameters[i];
    scope_->set(name, fallback ? evaluate(*fallback)
                               : Value::undefined(fmt::format("parameter '{}' was not provided",
                                                              shortened(name))));
  }
  return Value::string(captured(macro.body));
}

}  // namespace impetus::jinja
