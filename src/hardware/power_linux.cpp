// Mains or battery, and how warm: /sys/class/{power_supply,thermal,hwmon}.
#include <algorithm>

#include "hardware/probes.h"

namespace impetus::hardware {
namespace {

// Millidegrees; absent where no sensor of this world would say so.
std::optional<int64_t> read_temperature(const Path& path) {
  const auto value = read_int(path);
  if (!value || *value <= 0 || *value > 200'000) return std::nullopt;
  return value;
}

enum class Heat { unknown, nominal, fair, serious, critical };
constexpr const char* kHeatNames[] = {"", "nominal", "fair", "serious", "critical"};

// Trip points: at "active" fans start, at "passive" the kernel slows the processor down.
Heat zone_heat(const Path& zone) {
  const auto celsius = read_temperature(zone / "temp");
  if (!celsius) return Heat::unknown;
  Heat heat = Heat::unknown;
  for (int trip = 0; trip < 64; ++trip) {
    const std::string name = "trip_point_" + std::to_string(trip);
    const auto type = read_line(zone / (name + "_type"));
    if (!type) break;
    const auto limit = read_temperature(zone / (name + "_temp"));
    if (!limit) continue;
    heat = std::max(heat, Heat::nominal);
    if (*celsius < *limit) continue;
    heat = std::max(heat, *type == "active"    ? Heat::fair
                          : *type == "passive" ? Heat::serious
                                               : Heat::critical);
  }
  return heat;
}

bool is_cpu_sensor(const std::string& name) {
  for (const char* known : {"coretemp", "k10temp", "zenpower", "cpu_thermal"}) {
    if (name == known) return true;
  }
  return false;
}

// The CPU's own limits: above "max" it wants more cooling, at "crit" it slows itself down.
Heat sensor_heat(const Path& sensor) {
  if (!is_cpu_sensor(read_line(sensor / "name").value_or(""))) return Heat::unknown;
  const auto celsius = read_temperature(sensor / "temp1_input");
  const auto high = read_temperature(sensor / "temp1_max");
  const auto critical = read_temperature(sensor / "temp1_crit");
  if (!celsius || (!high && !critical)) return Heat::unknown;
  if (critical && *celsius >= *critical) return Heat::serious;
  if (high && *celsius >= *high) return Heat::fair;
  return Heat::nominal;
}

}  // namespace

double cpu_celsius(const Path& root) {
  int64_t hottest = -1;
  for (const Path& sensor : entries(root / "sys/class/hwmon", "hwmon")) {
    if (!is_cpu_sensor(read_line(sensor / "name").value_or(""))) continue;
    // The first is the package's; the others are its cores', and slow to read.
    hottest = std::max(hottest, read_temperature(sensor / "temp1_input").value_or(-1));
  }
  if (hottest < 0) {
    for (const Path& zone : entries(root / "sys/class/thermal", "thermal_zone")) {
      const std::string type = read_line(zone / "type").value_or("");
      if (type != "x86_pkg_temp" && !type.starts_with("cpu")) continue;
      hottest = std::max(hottest, read_temperature(zone / "temp").value_or(-1));
    }
  }
  return hottest < 0 ? -1 : static_cast<double>(hottest) / 1000;
}

PowerInfo probe_power(const Path& root, std::vector<Missing>& missing) {
  PowerInfo power;
  const Path supplies = root / "sys/class/power_supply";
  bool online = false, discharging = false;
  int batteries = 0;
  double percent = 0;
  for (const Path& supply : entries(supplies)) {
    if (read_line(supply / "scope") == "Device") continue;  // a mouse's or a pen's
    const std::string type = read_line(supply / "type").value_or("");
    if (type == "Battery") {
      if (read_line(supply / "status") == "Discharging") discharging = true;
      const auto capacity = read_int(supply / "capacity");
      if (!capacity || *capacity < 0 || *capacity > 100) continue;
      ++batteries;
      percent += static_cast<double>(*capacity);
    } else if (read_int(supply / "online").value_or(0) == 1) {
      online = true;  // Mains, USB, Wireless
    }
  }
  if (batteries > 0) power.battery_percent = percent / batteries;
  if (discharging && !online) {
    power.source = "battery";
  } else if (online || batteries > 0 || present(supplies)) {
    power.source = "mains";  // also where there is no battery at all
  } else {
    missing.push_back({"power", "the kernel does not tell (/sys/class/power_supply)"});
  }

  Heat heat = Heat::unknown;
  for (const Path& zone : entries(root / "sys/class/thermal", "thermal_zone")) {
    heat = std::max(heat, zone_heat(zone));
  }
  for (const Path& sensor : entries(root / "sys/class/hwmon", "hwmon")) {
    heat = std::max(heat, sensor_heat(sensor));
  }
  power.thermal = kHeatNames[static_cast<int>(heat)];
  if (heat == Heat::unknown) {
    missing.push_back({"thermal", "no sensor with limits can be read"});
  }
  return power;
}

}  // namespace impetus::hardware
