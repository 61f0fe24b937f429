#include "qinco/io/torch/pickle.h"

#include <optional>
#include <utility>

#include "qinco/io/torch/pickle_input.h"
#include "tensor/file.h"

namespace qinco::torch {
namespace {

using Kind = Value::Kind;

constexpr int64_t kMaxMemory = int64_t{48} << 20;
constexpr size_t kMaxStack = size_t{1} << 20;
constexpr size_t kMaxClassName = 256;

class Machine {
 public:
  Machine(const std::string& path, std::span<const std::byte> bytes, Accepts accepts)
      : in_(path, bytes), accepts_(accepts) {}

  Pickle run() {
    for (uint8_t op = in_.byte(); op != kStop; op = in_.byte()) {
      const bool known = constant(op) || text(op) || collection(op) || growth(op) || call(op) || memory(op);
      require(known, "unknown opcode 0x{:02x} at byte {}", op, in_.position() - 1);
      require(stack_.size() <= kMaxStack, "more than {} values on the stack", kMaxStack);
    }
    require(stack_.size() == 1 && marks_.empty(), "ends with {} values, expected 1", stack_.size());
    require(in_.left() == 0, "{} bytes after its end", in_.left());
    pickle_.root = stack_.back();
    return std::move(pickle_);
  }

 private:
  template <class... Args>
  void require(bool condition, fmt::format_string<Args...> format, Args&&... args) const {
    in_.require(condition, format, std::forward<Args>(args)...);
  }
  void charge(size_t bytes) {
    memory_ += static_cast<int64_t>(bytes);
    require(memory_ <= kMaxMemory, "needs more than {} MB of memory", kMaxMemory >> 20);
  }

  // The stack.

  void push(Value value) { stack_.push_back(value); }
  void push_integer(int64_t integer) {
    Value value;
    value.kind = Kind::integer;
    value.integer = integer;
    push(value);
  }
  void push_long(uint64_t size) {
    const std::optional<int64_t> integer = in_.long_integer(size);
    if (integer) return push_integer(*integer);
    Value value;
    value.kind = Kind::big_integer;
    push(value);
  }
  void push_boolean(bool boolean) {
    Value value;
    value.kind = Kind::boolean;
    value.boolean = boolean;
    push(value);
  }
  void push_text(Kind kind, uint64_t length) {
    require(length <= UINT32_MAX, "a text of {} bytes", length);
    Value value;
    value.kind = kind;
    value.chars = reinterpret_cast<const char*>(in_.take(length));
    value.length = static_cast<uint32_t>(length);
    push(value);
  }
  Value pop() {
    require(stack_.size() > (marks_.empty() ? 0 : marks_.back()), "stack underflow at byte {}", in_.position() - 1);
    const Value value = stack_.back();
    stack_.pop_back();
    return value;
  }
  /// The values above the last mark, which goes.
  std::vector<Value> pop_mark() {
    require(!marks_.empty(), "no mark on the stack at byte {}", in_.position() - 1);
    const auto begin = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
    std::vector<Value> values(begin, stack_.end());
    stack_.erase(begin, stack_.end());
    marks_.pop_back();
    return values;
  }
  std::vector<Value> pop_many(size_t count) {
    std::vector<Value> values(count);
    for (size_t i = count; i-- > 0;) values[i] = pop();
    return values;
  }
  Value make(Kind kind, std::vector<Value> items, std::string_view name = {}) {
    charge(sizeof(Object) + items.capacity() * sizeof(Value));
    Value value;
    value.kind = kind;
    value.object = &pickle_.objects.emplace_back();
    value.object->name = name;
    value.object->items = std::move(items);
    return value;
  }
  std::string_view own(std::string text) {
    charge(sizeof(std::string) + text.size());
    return pickle_.texts.emplace_back(std::move(text));
  }
  /// Appends to the list or dict on top of the stack.
  void extend(Kind kind, const std::vector<Value>& values) {
    const bool fits = !stack_.empty() && stack_.back().is(kind);
    require(fits, "elements for something that is no list or dict at byte {}", in_.position() - 1);
    charge(2 * values.size() * sizeof(Value));  // a vector may hold twice what it needs
    std::vector<Value>& items = stack_.back().object->items;
    items.insert(items.end(), values.begin(), values.end());
  }

  // Opcodes, family by family; each returns false for those of others.

  bool constant(uint8_t op) {
    switch (op) {
      case kNone:
        return push({}), true;
      case kNewTrue:
        return push_boolean(true), true;
      case kNewFalse:
        return push_boolean(false), true;
      case kBinInt:
        return push_integer(in_.number<int32_t>()), true;
      case kBinInt1:
        return push_integer(in_.byte()), true;
      case kBinInt2:
        return push_integer(in_.number<uint16_t>()), true;
      case kLong1:
        return push_long(in_.byte()), true;
      case kLong4:
        return push_long(in_.number<uint32_t>()), true;
      case kBinFloat: {
        Value value;
        value.kind = Kind::real;
        value.real = in_.big_endian_double();
        return push(value), true;
      }
      default:
        return false;
    }
  }

  bool text(uint8_t op) {
    switch (op) {
      case kShortBinUnicode:
      case kShortBinString:
        return push_text(Kind::text, in_.byte()), true;
      case kBinUnicode:
      case kBinString:
        return push_text(Kind::text, in_.number<uint32_t>()), true;
      case kBinUnicode8:
        return push_text(Kind::text, in_.number<uint64_t>()), true;
      case kShortBinBytes:
        return push_text(Kind::bytes, in_.byte()), true;
      case kBinBytes:
        return push_text(Kind::bytes, in_.number<uint32_t>()), true;
      case kBinBytes8:
      case kByteArray8:
        return push_text(Kind::bytes, in_.number<uint64_t>()), true;
      default:
        return false;
    }
  }

  bool collection(uint8_t op) {
    switch (op) {
      case kEmptyList:
      case kEmptySet:
        return push(make(Kind::list, {})), true;
      case kList:
      case kFrozenSet:
        return push(make(Kind::list, pop_mark())), true;
      case kEmptyTuple:
        return push(make(Kind::tuple, {})), true;
      case kTuple:
        return push(make(Kind::tuple, pop_mark())), true;
      case kTuple1:
        return push(make(Kind::tuple, pop_many(1))), true;
      case kTuple2:
        return push(make(Kind::tuple, pop_many(2))), true;
      case kTuple3:
        return push(make(Kind::tuple, pop_many(3))), true;
      case kEmptyDict:
        return push(make(Kind::dict, {})), true;
      case kDict:
        return push(make(Kind::dict, pairs(pop_mark()))), true;
      default:
        return false;
    }
  }
  std::vector<Value> pairs(std::vector<Value> values) const {
    require(values.size() % 2 == 0, "a key without a value before byte {}", in_.position());
    return values;
  }

  bool growth(uint8_t op) {
    switch (op) {
      case kAppend:
        return extend(Kind::list, pop_many(1)), true;
      case kAppends:
      case kAddItems:
        return extend(Kind::list, pop_mark()), true;
      case kSetItem:
        return extend(Kind::dict, pop_many(2)), true;
      case kSetItems:
        return extend(Kind::dict, pairs(pop_mark())), true;
      default:
        return false;
    }
  }

  bool call(uint8_t op) {
    switch (op) {
      case kGlobal: {
        const std::string_view module = in_.line(), name = in_.line();
        return push_global(module, name), true;
      }
      case kStackGlobal: {
        const std::vector<Value> names = pop_many(2);
        return push_global(names[0].text(), names[1].text()), true;
      }
      case kReduce:
      case kNewObj: {
        const std::vector<Value> made = pop_many(2);
        return push(call_of(made[0], made[1])), true;
      }
      case kNewObjEx: {
        const std::vector<Value> made = pop_many(3);
        return push(call_of(made[0], made[1])), true;
      }
      case kBuild: {
        const Value state = pop();
        require(!stack_.empty() && (stack_.back().is(Kind::instance) || stack_.back().is(Kind::dict)),
                "a state for something that has none at byte {}", in_.position() - 1);
        stack_.back().object->state = state;
        return true;
      }
      case kBinPersId: {
        const Value id = pop();
        require(id.is(Kind::tuple), "expected a tuple as persistent id at byte {}", in_.position() - 1);
        return push(make(Kind::persistent, id.object->items)), true;
      }
      default:
        return false;
    }
  }

  void push_global(std::string_view module, std::string_view name) {
    require(module.size() <= kMaxClassName && name.size() <= kMaxClassName, "a class name of more than {} characters",
            kMaxClassName);
    const std::string full = std::string(module) + "." + std::string(name);
    require(accepts_(full), "class or function {} is not one of a model's", quote(full));
    push(make(Kind::global, {}, own(full)));
  }

  Value call_of(const Value& callee, const Value& arguments) {
    require(callee.is(Kind::global) && arguments.is(Kind::tuple), "a call of no class at byte {}", in_.position() - 1);
    const std::string_view name = callee.object->name;
    const std::vector<Value>& items = arguments.object->items;
    if (name == "collections.OrderedDict") return ordered_dict(items);
    if (name == "collections.defaultdict") return make(Kind::dict, {});  // of a factory; the items follow
    if (name == "collections.Counter") {
      const bool from_dict = items.size() == 1 && items[0].is(Kind::dict);
      require(items.empty() || from_dict, "malformed Counter at byte {}", in_.position() - 1);
      return make(Kind::dict, from_dict ? items[0].object->items : items);
    }
    const bool set = name == "__builtin__.set" || name == "builtins.set" || name == "builtins.frozenset";
    if (set || name == "collections.deque") {  // of a deque the length may follow
      const bool from_list = !items.empty() && (items[0].is(Kind::list) || items[0].is(Kind::tuple));
      require((items.empty() || from_list) && items.size() <= (set ? 1 : 2), "malformed {} at byte {}", name,
              in_.position() - 1);
      return make(Kind::list, from_list ? items[0].object->items : items);
    }
    return make(Kind::instance, items, name);
  }

  /// OrderedDict() or OrderedDict([[key, value], ...]).
  Value ordered_dict(const std::vector<Value>& items) {
    std::vector<Value> content;
    if (!items.empty()) {
      require(items[0].is(Kind::list), "malformed OrderedDict at byte {}", in_.position() - 1);
      for (const Value& pair : items[0].object->items) {
        const bool whole = (pair.is(Kind::list) || pair.is(Kind::tuple)) && pair.object->items.size() == 2;
        require(whole, "malformed OrderedDict at byte {}", in_.position() - 1);
        content.insert(content.end(), pair.object->items.begin(), pair.object->items.end());
      }
    }
    return make(Kind::dict, std::move(content));
  }

  bool memory(uint8_t op) {
    switch (op) {
      case kProto: {
        const unsigned version = in_.byte();
        require(version >= 2 && version <= 5, "protocol {}, expected 2 to 5", version);
        return true;
      }
      case kFrame:
        return in_.take(8), true;
      case kMark:
        require(marks_.size() < kMaxStack, "more than {} marks on the stack", kMaxStack);
        marks_.push_back(stack_.size());
        return true;
      case kPop:
        return pop(), true;
      case kPopMark:
        return pop_mark(), true;
      case kDup: {
        const Value value = pop();
        return push(value), push(value), true;
      }
      case kBinPut:
        return remember(in_.byte()), true;
      case kLongBinPut:
        return remember(in_.number<uint32_t>()), true;
      case kMemoize:
        return remember(memo_.size()), true;
      case kBinGet:
        return recall(in_.byte()), true;
      case kLongBinGet:
        return recall(in_.number<uint32_t>()), true;
      default:
        return false;
    }
  }
  void remember(size_t index) {
    const Value value = pop();
    push(value);
    if (index >= memo_.size()) {
      charge((index + 1 - memo_.size()) * 2 * sizeof(Slot));
      memo_.resize(index + 1);
    }
    memo_[index] = {value, true};
  }
  void recall(size_t index) {
    require(index < memo_.size() && memo_[index].set, "nothing remembered as {} at byte {}", index, in_.position() - 1);
    push(memo_[index].value);
  }

  struct Slot {
    Value value;
    bool set = false;
  };

  PickleInput in_;
  Accepts accepts_;
  int64_t memory_ = 0;
  std::vector<Value> stack_;
  std::vector<size_t> marks_;  // stack sizes
  std::vector<Slot> memo_;
  Pickle pickle_;
};

}  // namespace

std::string_view Value::text() const {
  return is(Kind::text) || is(Kind::bytes) ? std::string_view(chars, length) : std::string_view();
}

bool Value::is_instance(std::string_view name) const {
  return is(Kind::instance) && object->name == name;
}

Pickle read_pickle(const std::string& path, std::span<const std::byte> bytes, Accepts accepts) {
  return Machine(path, bytes, accepts).run();
}

}  // namespace qinco::torch
