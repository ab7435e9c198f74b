/* nvml.c - a pretend libnvidia-ml.so. NVML_FAKE=two|lost|garbage|noinit chooses what it says; NVML_FAKE_FILE names a file with lines such as
   "0 temperature=91 used=9000 pid=77 mib=3000" (card, then what is not as usual), read at every call, and "0 xid=79": an event. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct nvmlDevice_st { int index; } *Device;
struct MemoryV1 { unsigned long long total, free, used; };
struct MemoryV2 { unsigned version; unsigned long long total, reserved, free, used; };
struct Utilization { unsigned gpu, memory; };
struct Process { unsigned pid; unsigned long long used; unsigned gi, ci; };
static struct nvmlDevice_st cards[2] = {{0}, {1}};
static int is(const char* word) {
  const char* mode = getenv("NVML_FAKE");
  return mode != NULL && strcmp(mode, word) == 0;
}
/* What the file says of one card; `usual` when it says nothing. */
static unsigned long long told(int card, const char* key, unsigned long long usual) {
  const char* path = getenv("NVML_FAKE_FILE");
  FILE* in = path != NULL ? fopen(path, "r") : NULL;
  char line[256];
  if (in == NULL) return usual;
  while (fgets(line, sizeof line, in) != NULL) {
    char* word = strtok(line, " \n");
    if (word == NULL || atoi(word) != card) continue;
    while ((word = strtok(NULL, " \n")) != NULL)
      if (strncmp(word, key, strlen(key)) == 0 && word[strlen(key)] == '=') usual = strtoull(word + strlen(key) + 1, NULL, 10);
  }
  fclose(in);
  return usual;
}
static int lost(Device d) { return is("lost") && d->index == 1; }

int nvmlInit_v2(void) { return is("noinit") ? 9 : 0; }
int nvmlShutdown(void) { return 0; }
const char* nvmlErrorString(int code) { return code == 9 ? "Driver Not Loaded" : code == 15 ? "GPU is lost" : "Unknown Error"; }
int nvmlDeviceGetCount_v2(unsigned* count) { *count = is("garbage") ? 4000000000u : 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device* d) { if (index > 1) return 2; *d = &cards[index]; return 0; }
int nvmlDeviceGetHandleByUUID(const char* uuid, Device* d) {
  for (int i = 0; i < 2; ++i)
    if (strncmp(uuid, "GPU-0000000", 11) == 0 && uuid[11] == '0' + i) { *d = &cards[i]; return 0; }
  return 6;
}
int nvmlDeviceGetUUID(Device d, char* out, unsigned n) {
  if (lost(d)) return 15;
  snprintf(out, n, "GPU-0000000%d-1111-2222-3333-444444444444", d->index);
  return 0;
}
int nvmlDeviceGetName(Device d, char* out, unsigned n) { snprintf(out, n, "Pretend RTX %d", d->index); return 0; }
/* The old ABI: a caller that uses it when v2 exists sees nonsense. */
int nvmlDeviceGetMemoryInfo(Device d, struct MemoryV1* m) { (void)d; m->total = 1; m->free = 1; m->used = 1; return 0; }
int nvmlDeviceGetMemoryInfo_v2(Device d, struct MemoryV2* m) {
  if (lost(d)) return 15;
  if (m->version != (sizeof *m | (2u << 24))) return 25;
  m->total = d->index == 0 ? 24564ull << 20 : 8192ull << 20;
  m->reserved = 400ull << 20;
  m->used = (told(d->index, "used", 1400) << 20) - m->reserved;   /* as driver 580: the reserved part is neither used nor free */
  m->free = m->total - m->reserved - m->used;
  return 0;
}
int nvmlDeviceGetTemperature(Device d, int sensor, unsigned* c) { (void)sensor; if (lost(d)) return 15; *c = (unsigned)told(d->index, "temperature", 61); return 0; }
int nvmlDeviceGetUtilizationRates(Device d, struct Utilization* u) { if (d->index == 1) return 3; u->gpu = 37; u->memory = 5; return 0; }
int nvmlDeviceGetComputeRunningProcesses_v3(Device d, unsigned* count, struct Process* list) {
  if (*count < 2) { *count = 2; return 7; }
  list[0] = (struct Process){(unsigned)told(d->index, "pid", 4242), told(d->index, "mib", 500) << 20, 0, 0};
  list[1] = (struct Process){4343, ~0ull, 0, 0};
  *count = 2;
  return 0;
}

/* Events: each change of a card's xid in the file is one. */
struct Event { Device device; unsigned long long type, data; unsigned gi, ci; };
static unsigned long long seen_xid[2];
int nvmlEventSetCreate(void** set) { *set = cards; seen_xid[0] = seen_xid[1] = 0; return 0; }
int nvmlEventSetFree(void* set) { (void)set; return 0; }
int nvmlDeviceRegisterEvents(Device d, unsigned long long types, void* set) { (void)d; (void)set; return types == 8 ? 0 : 2; }
int nvmlEventSetWait_v2(void* set, struct Event* event, unsigned timeout_ms) {
  (void)set;
  (void)timeout_ms;
  for (int i = 0; i < 2; ++i) {
    const unsigned long long xid = told(i, "xid", 0);
    if (xid == seen_xid[i]) continue;
    seen_xid[i] = xid;
    if (xid == 0) continue;
    *event = (struct Event){&cards[i], 8, xid, 0, 0};
    return 0;
  }
  return 10; /* timeout */
}
