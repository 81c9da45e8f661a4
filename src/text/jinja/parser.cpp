#include "text/jinja/parser.h"

#include <algorithm>
#include <charconv>
#include <initializer_list>

#include "text/jinja/lexer.h"
#include "text/jinja/python_text.h"

namespace impetus::jinja {
namespace {

using Names = std::initializer_list<std::string_view>;

bool one_of(std::string_view name, Names names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  Body run() {
    Body body = statements({});
    if (current().kind != TokenKind::end) fail_here("unexpected tag");
    return body;
  }

 private:
  // --- tokens
  const Token& current() const { return tokens_[index_]; }
  const Token& ahead() const { return tokens_[std::min(index_ + 1, tokens_.size() - 1)]; }
  Token next() { return index_ + 1 < tokens_.size() ? tokens_[index_++] : tokens_[index_]; }
  Position here() const { return {current().line, current().column}; }
  bool is_symbol(std::string_view text) const {
    return current().kind == TokenKind::symbol && current().text == text;
  }
  bool is_name(std::string_view text) const {
    return current().kind == TokenKind::name && current().text == text;
  }
  bool skip_symbol(std::string_view text) { return is_symbol(text) && (next(), true); }
  bool skip_name(std::string_view text) { return is_name(text) && (next(), true); }

  [[noreturn]] static void fail_at(Position position, std::string message) {
    TemplateError failure;
    failure.message = std::move(message);
    failure.line = position.line;
    failure.column = position.column;
    throw failure;
  }
  [[noreturn]] void fail_here(std::string message) const { fail_at(here(), std::move(message)); }

  std::string describe() const {
    switch (current().kind) {
      case TokenKind::end:
        return "the end of the template";
      case TokenKind::block_end:
        return "the end of the statement";
      case TokenKind::print_end:
        return "the end of the expression";
      default:
        return fmt::format("'{}'", current().text);
    }
  }
  void expect_symbol(std::string_view text) {
    if (!skip_symbol(text)) fail_here(fmt::format("expected '{}', got {}", text, describe()));
  }
  void expect_name(std::string_view text) {
    if (!skip_name(text)) fail_here(fmt::format("expected '{}', got {}", text, describe()));
  }
  std::string expect_any_name() {
    if (current().kind != TokenKind::name)
      fail_here(fmt::format("expected a name, got {}", describe()));
    return next().text;
  }
  void expect_block_end() {
    if (current().kind != TokenKind::block_end) {
      fail_here(fmt::format("expected the end of the statement, got {}", describe()));
    }
    next();
  }

  // --- expressions
  ExpressionPtr make(Operation operation, Position position, std::string text = {}) const {
    auto node = std::make_unique<Expression>();
    node->operation = operation;
    node->position = position;
    node->text = std::move(text);
    return node;
  }
  // Operator chains nest to the left without any recursion of the parser: their depth is limited
  // here, for the evaluator's and the destructor's sake.
  static ExpressionPtr seal(ExpressionPtr node) {
    int inner = 0;
    const auto look = [&](const ExpressionPtr& child) {
      if (child) inner = std::max(inner, child->depth);
    };
    for (const auto& operand : node->operands) look(operand);
    for (const auto& argument : node->arguments.positional) look(argument);
    for (const auto& argument : node->arguments.named) look(argument.second);
    look(node->arguments.star);
    look(node->arguments.star_star);
    node->depth = inner + 1;
    if (node->depth > Limits::syntax_depth) {
      fail_at(node->position,
              fmt::format("an expression is nested too deeply (limit: {})", Limits::syntax_depth));
    }
    return node;
  }
  static ExpressionPtr binary(ExpressionPtr node, ExpressionPtr left, ExpressionPtr right) {
    node->operands.push_back(std::move(left));
    node->operands.push_back(std::move(right));
    return seal(std::move(node));
  }

  ExpressionPtr expression(bool with_conditional = true) {
    const Position position = here();
    Nesting nesting(*this);
    ExpressionPtr node = logical_or();
    while (with_conditional && skip_name("if")) {
      auto conditional = make(Operation::conditional, position);
      conditional->operands.push_back(logical_or());
      conditional->operands.push_back(std::move(node));
      conditional->operands.push_back(skip_name("else") ? expression() : nullptr);
      node = seal(std::move(conditional));
    }
    return node;
  }

  ExpressionPtr logical_or() {
    ExpressionPtr left = logical_and();
    for (Position position = here(); skip_name("or"); position = here()) {
      left = binary(make(Operation::logical_or, position), std::move(left), logical_and());
    }
    return left;
  }

  ExpressionPtr logical_and() {
    ExpressionPtr left = logical_not();
    for (Position position = here(); skip_name("and"); position = here()) {
      left = binary(make(Operation::logical_and, position), std::move(left), logical_not());
    }
    return left;
  }

  ExpressionPtr logical_not() {
    const Position position = here();
    if (!is_name("not")) return comparison();
    Nesting nesting(*this);
    next();
    auto node = make(Operation::logical_not, position);
    node->operands.push_back(logical_not());
    return seal(std::move(node));
  }

  bool comparison_operator(Comparison& out) {
    static const std::pair<std::string_view, Comparison> table[] = {
        {"==", Comparison::eq}, {"!=", Comparison::ne}, {"<", Comparison::lt},
        {"<=", Comparison::le}, {">", Comparison::gt},  {">=", Comparison::ge}};
    for (const auto& [text, value] : table) {
      if (skip_symbol(text)) {
        out = value;
        return true;
      }
    }
    if (skip_name("in")) {
      out = Comparison::in;
      return true;
    }
    if (is_name("not") && ahead().kind == TokenKind::name && ahead().text == "in") {
      next();
      next();
      out = Comparison::not_in;
      return true;
    }
    return false;
  }

  ExpressionPtr comparison() {
    ExpressionPtr first = sum();
    const Position position = here();
    Comparison kind{};
    if (!comparison_operator(kind)) return first;
    auto node = make(Operation::compare, position);
    node->operands.push_back(std::move(first));
    do {
      node->comparisons.push_back(kind);
      node->operands.push_back(sum());
    } while (comparison_operator(kind));
    return seal(std::move(node));
  }

  ExpressionPtr sum() {
    ExpressionPtr left = concatenation();
    for (;;) {
      const Position position = here();
      if (skip_symbol("+")) {
        left = binary(make(Operation::add, position), std::move(left), concatenation());
      } else if (skip_symbol("-")) {
        left = binary(make(Operation::subtract, position), std::move(left), concatenation());
      } else {
        return left;
      }
    }
  }

  ExpressionPtr concatenation() {
    ExpressionPtr first = product();
    if (!is_symbol("~")) return first;
    auto node = make(Operation::concatenate, here());
    node->operands.push_back(std::move(first));
    while (skip_symbol("~")) node->operands.push_back(product());
    return seal(std::move(node));
  }

  ExpressionPtr product() {
    static const std::pair<std::string_view, Operation> table[] = {{"*", Operation::multiply},
                                                                   {"/", Operation::divide},
                                                                   {"//", Operation::floor_divide},
                                                                   {"%", Operation::modulo}};
    ExpressionPtr left = power();
    for (bool more = true; more;) {
      more = false;
      for (const auto& [text, operation] : table) {
        const Position position = here();
        if (!skip_symbol(text)) continue;
        left = binary(make(operation, position), std::move(left), power());
        more = true;
        break;
      }
    }
    return left;
  }

  ExpressionPtr power() {
    ExpressionPtr left = unary();
    for (Position position = here(); skip_symbol("**"); position = here()) {
      left = binary(make(Operation::power, position), std::move(left), unary());
    }
    return left;
  }

  ExpressionPtr unary(bool with_filters = true) {
    Nesting nesting(*this);
    const Position position = here();
    ExpressionPtr node;
    if (is_symbol("-") || is_symbol("+")) {
      node = make(next().text == "-" ? Operation::negate : Operation::positive, position);
      node->operands.push_back(unary(false));
      node = seal(std::move(node));
    } else {
      node = primary();
    }
    node = postfix(std::move(node));
    return with_filters ? filters_and_tests(std::move(node)) : std::move(node);
  }

  ExpressionPtr constant(Position position, Value value) const {
    auto node = make(Operation::constant, position);
    node->constant = std::move(value);
    return node;
  }

  ExpressionPtr primary() {
    const Position position = here();
    switch (current().kind) {
      case TokenKind::name:
        return name_or_constant();
      case TokenKind::string: {
        std::string text;
        while (current().kind == TokenKind::string) text += next().text;
        return constant(position, Value::string(std::move(text)));
      }
      case TokenKind::integer: {
        int64_t value = 0;
        const std::string& text = current().text;
        if (std::from_chars(text.data(), text.data() + text.size(), value).ec != std::errc()) {
          fail_here(fmt::format("the integer {} does not fit 64 bits", text));
        }
        next();
        return constant(position, Value::integer(value));
      }
      case TokenKind::floating: {
        double value = 0;
        const std::string& text = current().text;
        if (std::from_chars(text.data(), text.data() + text.size(), value).ec != std::errc()) {
          fail_here(fmt::format("the number {} is out of range", text));
        }
        next();
        return constant(position, Value::floating(value));
      }
      case TokenKind::symbol:
        if (skip_symbol("(")) {
          ExpressionPtr node = tuple({.explicit_parentheses = true});
          expect_symbol(")");
          return node;
        }
        if (skip_symbol("[")) return list(position);
        if (skip_symbol("{")) return dict(position);
        break;
      default:
        break;
    }
    fail_here(fmt::format("expected an expression, got {}", describe()));
  }

  ExpressionPtr name_or_constant() {
    const Position position = here();
    const std::string& name = current().text;
    if (one_of(name, {"and", "or", "not", "if", "else", "elif", "in", "is"})) {
      fail_here(fmt::format("expected an expression, got '{}'", name));
    }
    Token token = next();
    if (token.text == "true" || token.text == "True")
      return constant(position, Value::boolean(true));
    if (token.text == "false" || token.text == "False") {
      return constant(position, Value::boolean(false));
    }
    if (token.text == "none" || token.text == "None") return constant(position, Value::none());
    if (!macros_.empty()) {
      macros_.back()->uses_varargs |= token.text == "varargs";
      macros_.back()->uses_kwargs |= token.text == "kwargs";
      macros_.back()->uses_caller |= token.text == "caller";
    }
    return make(Operation::name, position, std::move(token.text));
  }

  ExpressionPtr list(Position position) {
    auto node = make(Operation::list, position);
    while (!skip_symbol("]")) {
      if (!node->operands.empty()) expect_symbol(",");
      if (skip_symbol("]")) break;
      node->operands.push_back(expression());
    }
    return seal(std::move(node));
  }

  ExpressionPtr dict(Position position) {
    auto node = make(Operation::dict, position);
    while (!skip_symbol("}")) {
      if (!node->operands.empty()) expect_symbol(",");
      if (skip_symbol("}")) break;
      node->operands.push_back(expression());
      expect_symbol(":");
      node->operands.push_back(expression());
    }
    return seal(std::move(node));
  }

  struct TupleOptions {
    bool with_conditional = true;
    bool explicit_parentheses = false;
    std::string_view end_name = {};
  };

  bool at_tuple_end(const TupleOptions& options) const {
    return current().kind == TokenKind::block_end || current().kind == TokenKind::print_end ||
           is_symbol(")") || (!options.end_name.empty() && is_name(options.end_name));
  }

  // One expression, or several with commas between as a tuple.
  ExpressionPtr tuple(TupleOptions options) {
    const Position position = here();
    std::vector<ExpressionPtr> items;
    bool is_tuple = false;
    for (;;) {
      if (!items.empty()) {
        if (!skip_symbol(",")) break;
        is_tuple = true;
      }
      if (at_tuple_end(options)) break;
      items.push_back(expression(options.with_conditional));
    }
    if (!is_tuple) {
      if (!items.empty()) return std::move(items.front());
      if (!options.explicit_parentheses) {
        fail_here(fmt::format("expected an expression, got {}", describe()));
      }
    }
    auto node = make(Operation::tuple, position);
    node->operands = std::move(items);
    return seal(std::move(node));
  }

  ExpressionPtr postfix(ExpressionPtr node) {
    for (;;) {
      const Position position = here();
      if (skip_symbol(".")) {
        node = member(std::move(node), position);
      } else if (skip_symbol("[")) {
        node = subscript(std::move(node), position);
      } else if (is_symbol("(")) {
        node = call(std::move(node));
      } else {
        return node;
      }
    }
  }

  ExpressionPtr member(ExpressionPtr object, Position position) {
    if (current().kind == TokenKind::integer) {
      ExpressionPtr key = primary();
      return binary(make(Operation::item, position), std::move(object), std::move(key));
    }
    auto node = make(Operation::attribute, position, expect_any_name());
    node->operands.push_back(std::move(object));
    return seal(std::move(node));
  }

  ExpressionPtr subscript(ExpressionPtr object, Position position) {
    ExpressionPtr parts[3];
    bool is_slice = false;
    if (is_symbol("]")) fail_here("a subscript is empty");
    if (!is_symbol(":")) parts[0] = expression();
    for (int i = 1; i < 3 && skip_symbol(":"); ++i) {
      is_slice = true;
      if (!is_symbol(":") && !is_symbol("]")) parts[i] = expression();
    }
    if (is_symbol(",")) fail_here("several subscripts in one [] are not supported");
    expect_symbol("]");
    if (!is_slice)
      return binary(make(Operation::item, position), std::move(object), std::move(parts[0]));
    auto node = make(Operation::slice, position);
    node->operands.push_back(std::move(object));
    for (ExpressionPtr& part : parts) node->operands.push_back(std::move(part));
    return seal(std::move(node));
  }

  CallArguments arguments() {
    CallArguments result;
    expect_symbol("(");
    bool first = true;
    while (!skip_symbol(")")) {
      if (!first) expect_symbol(",");
      if (skip_symbol(")")) break;
      first = false;
      if (skip_symbol("**")) {
        if (result.star_star) fail_here("a call has ** twice");
        result.star_star = expression();
      } else if (skip_symbol("*")) {
        if (result.star) fail_here("a call has * twice");
        result.star = expression();
      } else if (current().kind == TokenKind::name && ahead().kind == TokenKind::symbol &&
                 ahead().text == "=") {
        std::string name = next().text;
        next();
        result.named.emplace_back(std::move(name), expression());
      } else {
        if (!result.named.empty() || result.star || result.star_star) {
          fail_here("a positional argument follows a named one");
        }
        result.positional.push_back(expression());
      }
    }
    return result;
  }

  ExpressionPtr call(ExpressionPtr callee) {
    auto node = make(Operation::call, here());
    node->operands.push_back(std::move(callee));
    node->arguments = arguments();
    return seal(std::move(node));
  }

  std::string dotted_name() {
    std::string name = expect_any_name();
    while (skip_symbol(".")) name += "." + expect_any_name();
    return name;
  }

  ExpressionPtr filter(ExpressionPtr subject, Position position) {
    auto node = make(Operation::filter, position, dotted_name());
    node->operands.push_back(std::move(subject));
    if (is_symbol("(")) node->arguments = arguments();
    return seal(std::move(node));
  }

  ExpressionPtr test(ExpressionPtr subject, Position position) {
    const bool negated = skip_name("not");
    auto node = make(Operation::test, position, dotted_name());
    node->operands.push_back(std::move(subject));
    const TokenKind kind = current().kind;
    if (is_symbol("(")) {
      node->arguments = arguments();
    } else if (kind == TokenKind::name || kind == TokenKind::string || kind == TokenKind::integer ||
               kind == TokenKind::floating || is_symbol("[") || is_symbol("{")) {
      if (is_name("is")) fail_here("tests cannot be chained with 'is'");
      if (!is_name("else") && !is_name("or") && !is_name("and")) {
        ExpressionPtr argument = primary();
        node->arguments.positional.push_back(postfix(std::move(argument)));
      }
    }
    node = seal(std::move(node));
    if (!negated) return node;
    auto negation = make(Operation::logical_not, position);
    negation->operands.push_back(std::move(node));
    return seal(std::move(negation));
  }

  ExpressionPtr filters_and_tests(ExpressionPtr node) {
    for (;;) {
      const Position position = here();
      if (skip_symbol("|")) {
        node = filter(std::move(node), position);
      } else if (skip_name("is")) {
        node = test(std::move(node), position);
      } else if (is_symbol("(")) {
        node = call(std::move(node));
      } else {
        return node;
      }
    }
  }

  // --- statements
  Body statements(Names ends) {
    Nesting nesting(*this);
    Body body;
    for (;;) {
      const Position position = here();
      switch (current().kind) {
        case TokenKind::end:
          return body;
        case TokenKind::data: {
          auto node = statement(Statement::Type::text, position);
          node->text = next().text;
          body.push_back(std::move(node));
          break;
        }
        case TokenKind::print_begin: {
          next();
          auto node = statement(Statement::Type::print, position);
          node->expression = tuple({});
          if (current().kind != TokenKind::print_end) {
            fail_here(fmt::format("expected '}}}}', got {}", describe()));
          }
          next();
          body.push_back(std::move(node));
          break;
        }
        case TokenKind::block_begin: {
          next();
          if (current().kind != TokenKind::name) fail_here("expected the name of a statement");
          if (one_of(current().text, ends)) return body;
          if (auto node = tag(position)) body.push_back(std::move(node));
          break;
        }
        default:
          fail_here(fmt::format("unexpected {}", describe()));
      }
    }
  }

  // The body up to one of `ends`, whose name becomes the current token.
  Body body_until(Names ends, std::string_view opened, Position position) {
    expect_block_end();
    Body body = statements(ends);
    if (current().kind == TokenKind::end) {
      fail_at(position,
              fmt::format("'{}' is never closed: '{}' is missing", opened, *(ends.end() - 1)));
    }
    return body;
  }
  Body body_and_end(std::string_view end, std::string_view opened, Position position) {
    Body body = body_until({end}, opened, position);
    next();
    expect_block_end();
    return body;
  }

  static std::unique_ptr<Statement> statement(Statement::Type type, Position position) {
    auto node = std::make_unique<Statement>();
    node->type = type;
    node->position = position;
    return node;
  }

  std::unique_ptr<Statement> tag(Position position) {
    const Token token = next();
    const std::string& name = token.text;
    if (name == "if") return branch(position);
    if (name == "for") return loop(position);
    if (name == "set") return set(position);
    if (name == "macro") return macro(position);
    if (name == "call") return call_block(position);
    if (name == "filter") {
      auto node = statement(Statement::Type::filter, position);
      node->expression = filter_chain(filter(nullptr, position));
      node->body = body_and_end("endfilter", "filter", position);
      return node;
    }
    if (name == "with") return with(position);
    if (name == "generation") {
      auto node = statement(Statement::Type::generation, position);
      const int loops = std::exchange(loops_, 0);
      node->body = body_and_end("endgeneration", "generation", position);
      loops_ = loops;
      return node;
    }
    if (name == "print") {
      auto node = statement(Statement::Type::print, position);
      node->expression = tuple({});
      expect_block_end();
      return node;
    }
    if (name == "break" || name == "continue") {
      if (loops_ == 0) fail_at(position, fmt::format("'{}' outside of a loop", name));
      expect_block_end();
      return statement(
          name == "break" ? Statement::Type::loop_break : Statement::Type::loop_continue, position);
    }
    if (one_of(name,
               {"block", "extends", "include", "import", "from", "autoescape", "do", "trans"})) {
      fail_at(position, fmt::format("the statement '{}' is not supported in chat templates", name));
    }
    fail_at(position, fmt::format("unknown statement '{}'", name));
  }

  ExpressionPtr filter_chain(ExpressionPtr node) {
    for (Position position = here(); skip_symbol("|"); position = here()) {
      node = filter(std::move(node), position);
    }
    return node;
  }

  std::unique_ptr<Statement> branch(Position position) {
    auto node = statement(Statement::Type::branch, position);
    for (;;) {
      ExpressionPtr condition = tuple({.with_conditional = false});
      Body body = body_until({"elif", "else", "endif"}, "if", position);
      node->branches.emplace_back(std::move(condition), std::move(body));
      const Token end = next();
      if (end.text == "elif") continue;
      if (end.text == "else") {
        node->otherwise = body_and_end("endif", "if", position);
      } else {
        expect_block_end();
      }
      return node;
    }
  }

  std::unique_ptr<Statement> loop(Position position) {
    auto node = statement(Statement::Type::loop, position);
    node->target = target_list("in", false);
    expect_name("in");
    node->expression = tuple({.with_conditional = false, .end_name = "recursive"});
    if (skip_name("if")) node->condition = expression();
    if (is_name("recursive")) fail_here("recursive loops are not supported: use a macro");
    ++loops_;
    node->body = body_until({"else", "endfor"}, "for", position);
    --loops_;
    if (next().text == "else") {
      node->otherwise = body_and_end("endfor", "for", position);
    } else {
      expect_block_end();
    }
    return node;
  }

  Target target(bool with_attributes) {
    Target result;
    result.position = here();
    if (skip_symbol("(")) {
      Nesting nesting(*this);
      result = target_list(")", with_attributes);
      expect_symbol(")");
      return result;
    }
    result.name = expect_any_name();
    if (one_of(result.name, {"true", "false", "none", "True", "False", "None", "and", "or", "not",
                             "if", "else", "elif", "in", "is"})) {
      fail_at(result.position, fmt::format("cannot assign to '{}'", result.name));
    }
    if (with_attributes && skip_symbol(".")) result.attribute = expect_any_name();
    return result;
  }

  Target target_list(std::string_view end, bool with_attributes) {
    const Position position = here();
    std::vector<Target> parts{target(with_attributes)};
    bool is_tuple = false;
    while (skip_symbol(",")) {
      is_tuple = true;
      if (is_name(end) || is_symbol(end) || is_symbol("=")) break;
      parts.push_back(target(with_attributes));
    }
    if (!is_tuple) return std::move(parts.front());
    Target result;
    result.position = position;
    result.parts = std::move(parts);
    return result;
  }

  std::unique_ptr<Statement> set(Position position) {
    auto node = statement(Statement::Type::assign, position);
    node->target = target_list("=", true);
    if (skip_symbol("=")) {
      node->expression = tuple({});
      expect_block_end();
      return node;
    }
    node->type = Statement::Type::capture;
    if (!node->target.parts.empty()) fail_at(position, "a set block has one target");
    if (const Position bar = here(); skip_symbol("|")) {
      node->expression = filter_chain(filter(nullptr, bar));
    }
    node->body = body_and_end("endset", "set", position);
    return node;
  }

  void signature(Macro& macro) {
    expect_symbol("(");
    while (!skip_symbol(")")) {
      if (!macro.parameters.empty()) expect_symbol(",");
      if (skip_symbol(")")) break;
      const Position position = here();
      std::string name = target(false).name;
      if (name.empty()) fail_at(position, "a parameter must be a name");
      ExpressionPtr value;
      if (skip_symbol("=")) {
        value = expression();
      } else if (!macro.parameters.empty() && macro.parameters.back().second) {
        fail_at(position, "a parameter without a default follows one that has a default");
      }
      macro.parameters.emplace_back(std::move(name), std::move(value));
      if (macro.parameters.size() > 255) fail_at(position, "a macro has more than 255 parameters");
    }
  }

  Body macro_body(Macro& macro, std::string_view end, std::string_view opened, Position position) {
    macros_.push_back(&macro);
    const int loops = std::exchange(loops_, 0);
    Body body = body_and_end(end, opened, position);
    loops_ = loops;
    macros_.pop_back();
    // What an inner call block uses of these names, it may take from its macro.
    if (!macros_.empty()) {
      macros_.back()->uses_varargs |= macro.uses_varargs;
      macros_.back()->uses_kwargs |= macro.uses_kwargs;
      macros_.back()->uses_caller |= macro.uses_caller;
    }
    return body;
  }

  std::unique_ptr<Statement> macro(Position position) {
    auto node = statement(Statement::Type::macro, position);
    node->macro = std::make_unique<Macro>();
    node->macro->name = target(false).name;
    signature(*node->macro);
    node->macro->body = macro_body(*node->macro, "endmacro", "macro", position);
    return node;
  }

  std::unique_ptr<Statement> call_block(Position position) {
    auto node = statement(Statement::Type::call, position);
    node->macro = std::make_unique<Macro>();
    node->macro->name = "caller";
    if (is_symbol("(")) signature(*node->macro);
    node->expression = expression();
    if (node->expression->operation != Operation::call) fail_at(position, "expected a call");
    node->macro->body = macro_body(*node->macro, "endcall", "call", position);
    return node;
  }

  std::unique_ptr<Statement> with(Position position) {
    auto node = statement(Statement::Type::scope, position);
    while (current().kind != TokenKind::block_end) {
      if (!node->assignments.empty()) expect_symbol(",");
      Target name = target(false);
      expect_symbol("=");
      node->assignments.emplace_back(std::move(name), expression());
    }
    node->body = body_and_end("endwith", "with", position);
    return node;
  }

  // The parser's own recursion.
  struct Nesting {
    explicit Nesting(Parser& parser) : parser(parser) {
      if (++parser.depth_ > Limits::syntax_depth) {
        --parser.depth_;
        parser.fail_here(
            fmt::format("the template is nested too deeply (limit: {})", Limits::syntax_depth));
      }
    }
    ~Nesting() { --parser.depth_; }
    Parser& parser;
  };

  std::vector<Token> tokens_;
  size_t index_ = 0;
  int depth_ = 0;
  int loops_ = 0;
  std::vector<Macro*> macros_;
};

}  // namespace

Body parse_template(std::string_view source) {
  if (source.size() > Limits::source_bytes) {
    fail("the template has {} bytes, more than {}", source.size(), Limits::source_bytes);
  }
  if (!is_valid_utf8(source)) fail("the template is not valid UTF-8");
  return Parser(tokenize(normalize_source(source))).run();
}

}  // namespace impetus::jinja
