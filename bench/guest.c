// SPDX-License-Identifier: Apache-2.0
// The bare calls of bench/guest.py from C: argument is the address of a device bound to vfio-pci, behind an IOMMU, whose
// first BAR can be mapped. Prints "name nanoseconds" lines, of the best round each.
#include <dirent.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 400, PAIRS = 20, READS = 200, PAGE = 4096, IOVA = 0x100000, READ_WRITE_FIXED = 7 };

static const unsigned long REGION_INFO = _IO(';', 108), BIND = _IO(';', 118), ATTACH = _IO(';', 119);
static const unsigned long IOAS_ALLOC = _IO(';', 0x81), IOAS_MAP = _IO(';', 0x85), IOAS_UNMAP = _IO(';', 0x86);

struct region_info { uint32_t argsz, flags, index, cap_offset; uint64_t size, offset; };
struct ioas_alloc { uint32_t size, flags, out_ioas_id; };
struct ioas_map { uint32_t size, flags, ioas_id, reserved; uint64_t user_va, length, iova; };
struct ioas_unmap { uint32_t size, ioas_id; uint64_t iova, length; };
struct bind { uint32_t argsz, flags; int32_t iommufd; uint32_t out_devid; };
struct attach { uint32_t argsz, flags, pt_id; };

static void need(int result, const char *what)
{
	if (result < 0) {
		perror(what);
		exit(1);
	}
}

static uint64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * UINT64_C(1000000000) + t.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return (x > y) - (x < y);
}

static void report(const char *name, uint64_t *rounds)
{
	qsort(rounds, ROUNDS, sizeof(*rounds), ascending);
	printf("%s %lu\n", name, (unsigned long)rounds[0]);
}

static int open_device(const char *bdf)
{
	char path[300];
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/vfio-dev", bdf);
	DIR *directory = opendir(path);
	need(directory ? 0 : -1, path);
	struct dirent *entry = NULL;
	while ((entry = readdir(directory)) && strncmp(entry->d_name, "vfio", 4))
		;
	need(entry ? 0 : -1, "no VFIO device");
	snprintf(path, sizeof(path), "/dev/vfio/devices/%s", entry->d_name);
	closedir(directory);
	int device = open(path, O_RDWR);
	need(device, path);
	return device;
}

static void time_pairs(int iommufd, uint32_t ioas, void *page)
{
	struct ioas_map map = { sizeof(map), READ_WRITE_FIXED, ioas, 0, (uintptr_t)page, PAGE, IOVA };
	struct ioas_unmap unmap = { sizeof(unmap), ioas, IOVA, PAGE };
	uint64_t rounds[ROUNDS];
	for (int round = 0; round < ROUNDS; round++) {
		uint64_t start = now();
		for (int i = 0; i < PAIRS; i++) {
			need(ioctl(iommufd, IOAS_MAP, &map), "IOMMU_IOAS_MAP");
			unmap.length = PAGE;
			need(ioctl(iommufd, IOAS_UNMAP, &unmap), "IOMMU_IOAS_UNMAP");
		}
		rounds[round] = (now() - start) / PAIRS;
	}
	report("MAP+UNMAP of 4 KiB, from C", rounds);
}

static void time_reads(int device)
{
	struct region_info info = { .argsz = sizeof(info) };
	need(ioctl(device, REGION_INFO, &info), "VFIO_DEVICE_GET_REGION_INFO");
	volatile uint32_t *bar = mmap(NULL, info.size, PROT_READ | PROT_WRITE, MAP_SHARED, device, info.offset);
	need(bar == MAP_FAILED ? -1 : 0, "mmap of BAR 0");
	uint64_t rounds[ROUNDS];
	for (int round = 0; round < ROUNDS; round++) {
		uint64_t start = now();
		for (int i = 0; i < READS; i++)
			bar[0];
		rounds[round] = (now() - start) / READS;
	}
	report("MMIO read of 4 bytes, from C", rounds);
}

int main(int argc, char **argv)
{
	if (argc != 2) {
		fprintf(stderr, "usage: guest BDF\n");
		return 2;
	}
	int device = open_device(argv[1]), iommufd = open("/dev/iommu", O_RDWR);
	need(iommufd, "/dev/iommu");
	struct bind bind = { sizeof(bind), 0, iommufd, 0 };
	need(ioctl(device, BIND, &bind), "VFIO_DEVICE_BIND_IOMMUFD");
	struct ioas_alloc alloc = { .size = sizeof(alloc) };
	need(ioctl(iommufd, IOAS_ALLOC, &alloc), "IOMMU_IOAS_ALLOC");
	struct attach attach = { sizeof(attach), 0, alloc.out_ioas_id };
	need(ioctl(device, ATTACH, &attach), "VFIO_DEVICE_ATTACH_IOMMUFD_PT");
	void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	need(page == MAP_FAILED ? -1 : 0, "mmap");
	memset(page, 1, PAGE);
	time_pairs(iommufd, alloc.out_ioas_id, page);
	time_reads(device);
	return 0;
}
