// Dealing CPUs to threads (see pin.h).
#include "launch/pin.h"

#include <hwloc.h>
#include <stdio.h>

// The first NUMA node that has this CPU; 0 where hwloc knows of none.
static int node_of(hwloc_topology_t t, unsigned cpu) {
  const int n = hwloc_get_nbobjs_by_type(t, HWLOC_OBJ_NUMANODE);
  for (int i = 0; i < n; i++) {
    const hwloc_obj_t o = hwloc_get_obj_by_type(t, HWLOC_OBJ_NUMANODE, (unsigned)i);
    if (o->cpuset && hwloc_bitmap_isset(o->cpuset, cpu)) return i;
  }
  return 0;
}

// hwloc's order of processing units is by node and core already; a processor whose cores it cannot see has one a CPU.
static void collect(hwloc_topology_t t, const cpu_set_t *ours, ti_pin_host *h) {
  hwloc_obj_t core_before = NULL;
  const int n = hwloc_get_nbobjs_by_type(t, HWLOC_OBJ_PU);
  int core = -1;
  for (int i = 0; i < n; i++) {
    const hwloc_obj_t pu = hwloc_get_obj_by_type(t, HWLOC_OBJ_PU, (unsigned)i), o = hwloc_get_ancestor_obj_by_type(t, HWLOC_OBJ_CORE, pu);
    if (pu->os_index >= CPU_SETSIZE || !CPU_ISSET(pu->os_index, ours)) continue;
    if (!o || o != core_before) core++;
    core_before = o;
    h->cpu[h->n_cpu++] = (ti_pin_cpu){.cpu = (int)pu->os_index, .core = core, .node = node_of(t, pu->os_index)};
  }
  h->n_core = core + 1;
}

static int count_nodes(const ti_pin_host *h) {
  bool seen[CPU_SETSIZE] = {false};
  int n = 0;
  for (int i = 0; i < h->n_cpu; i++) {
    n += !seen[h->cpu[i].node];
    seen[h->cpu[i].node] = true;
  }
  return n;
}

ti_status ti_pin_read(ti_pin_host *out) {
  cpu_set_t ours;
  hwloc_topology_t t;
  ti_status st = TI_ERR_IO;
  if (sched_getaffinity(0, sizeof ours, &ours) || hwloc_topology_init(&t)) return TI_ERR_IO;
  hwloc_topology_set_all_types_filter(t, HWLOC_TYPE_FILTER_KEEP_NONE);
  hwloc_topology_set_type_filter(t, HWLOC_OBJ_CORE, HWLOC_TYPE_FILTER_KEEP_ALL);
  if (hwloc_topology_load(t)) goto out;
  *out = (ti_pin_host){0};
  collect(t, &ours, out);
  out->n_node = count_nodes(out);
  st = out->n_cpu ? TI_OK : TI_ERR_IO;
out:
  hwloc_topology_destroy(t);
  return st;
}

// The node with the most CPUs to give.
static int widest_node(const ti_pin_host *h, const bool *free) {
  int left[CPU_SETSIZE] = {0}, best = 0;
  for (int i = 0; i < h->n_cpu; i++) left[h->cpu[i].node] += free[i];
  for (int i = 1; i < CPU_SETSIZE; i++)
    if (left[i] > left[best]) best = i;
  return best;
}

bool ti_pin_deal(const ti_pin_host *h, int workers, int index, int threads, int *cpus) {
  const long total = (long)workers * threads;
  bool free[CPU_SETSIZE];
  if (total > h->n_cpu) return false;
  for (int i = 0; i < h->n_cpu; i++) free[i] = total > h->n_core || i == 0 || h->cpu[i].core != h->cpu[i - 1].core;
  for (int w = 0; w <= index; w++) {
    for (int got = 0; got < threads;) {
      const int node = widest_node(h, free);
      for (int i = 0; i < h->n_cpu && got < threads; i++) {
        if (!free[i] || h->cpu[i].node != node) continue;
        free[i] = false;
        if (w == index) cpus[got] = h->cpu[i].cpu;
        got++;
      }
    }
  }
  return true;
}

bool ti_pin_unasked(const ti_pin_host *h, int workers, int threads) {
  const long total = (long)workers * threads;
  return total == h->n_core ? h->n_core < h->n_cpu || h->n_node > 1 : total == h->n_cpu && h->n_node > 1;
}

const char *ti_pin_text(const int *cpus, int n, char *out, size_t size) {
  cpu_set_t set;
  size_t at = 0;
  CPU_ZERO(&set);
  for (int i = 0; i < n; i++) CPU_SET((size_t)cpus[i], &set);
  out[0] = '\0';
  for (int a = 0, b; a < CPU_SETSIZE; a = b + 1) {
    b = a;
    if (!CPU_ISSET((size_t)a, &set)) continue;
    while (b + 1 < CPU_SETSIZE && CPU_ISSET((size_t)b + 1, &set)) b++;
    char one[32];
    const int len = snprintf(one, sizeof one, b > a ? "%s%d-%d" : "%s%d", at ? "," : "", a, b);
    if (at + (size_t)len + 3 > size) {
      snprintf(out + at, size - at, "..");
      break;
    }
    at += (size_t)snprintf(out + at, size - at, "%s", one);
  }
  return out;
}
