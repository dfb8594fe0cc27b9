/*
 * A driver for QEMU's edu device where there is no IOMMU: VFIO's no-IOMMU mode, the way DPDK goes.
 *
 *     cc -O2 -o noiommu noiommu.c
 *     ./noiommu 0000:01:00.0
 *
 * It maps nothing for the device: it locks a huge page (or, where there is none, ordinary pages), asks /proc/self/pagemap
 * for the physical address, and gives the device that. Nothing stops a wrong one. It takes root or CAP_SYS_RAWIO and
 * CAP_SYS_ADMIN, and vfio.enable_unsafe_noiommu_mode=1; or no such machine, and no privilege:
 *
 *     ioas run --no-iommu --cap sys_rawio --cap sys_admin -- ./noiommu 0000:01:00.0
 *
 * With --wild it lets the device write to memory that it has given back. On a real machine that destroys whatever
 * stands there by now: do it under ioas run, which reports it.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/vfio.h>

enum { DMA_SOURCE = 0x80, DMA_DESTINATION = 0x88, DMA_COUNT = 0x90, DMA_COMMAND = 0x98 };
enum { DMA_START = 1, DMA_TO_MEMORY = 2 };
enum { DEVICE_BUFFER = 0x40000, PCI_COMMAND = 4, PCI_COMMAND_MASTER = 4 };
enum { PAGE = 4096, HUGE_PAGE = 2 << 20, PAGES = 2 };

static const uint64_t PRESENT = 1ull << 63, FRAME = (1ull << 55) - 1;
static int device, pagemap;
static uint64_t bar0, config;

static void fail(const char *what)
{
	fprintf(stderr, "noiommu: %s: %s\n", what, strerror(errno));
	exit(1);
}

static long check(long result, const char *what)
{
	if (result < 0)
		fail(what);
	return result;
}

/* The group in which VFIO has put the function, which no IOMMU did. */
static int open_group(const char *address)
{
	char path[PATH_MAX], group[PATH_MAX];

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/iommu_group", address);
	check(readlink(path, memset(group, 0, sizeof(group)), sizeof(group) - 1), path);
	snprintf(path, sizeof(path), "/dev/vfio/noiommu-%.64s", basename(group));
	printf("edu %s is in %s: no IOMMU stands before it\n", address, path);
	return check(open(path, O_RDWR), path);
}

static uint64_t region(uint32_t index)
{
	struct vfio_region_info info = { .argsz = sizeof(info), .index = index };

	check(ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &info), "VFIO_DEVICE_GET_REGION_INFO");
	return info.offset;
}

static void open_device(const char *address)
{
	int container = check(open("/dev/vfio/vfio", O_RDWR), "/dev/vfio/vfio"), group = open_group(address);
	uint16_t command;

	check(ioctl(group, VFIO_GROUP_SET_CONTAINER, &container), "VFIO_GROUP_SET_CONTAINER");
	check(ioctl(container, VFIO_SET_IOMMU, VFIO_NOIOMMU_IOMMU), "VFIO_SET_IOMMU");
	device = check(ioctl(group, VFIO_GROUP_GET_DEVICE_FD, address), "VFIO_GROUP_GET_DEVICE_FD");
	bar0 = region(VFIO_PCI_BAR0_REGION_INDEX);
	config = region(VFIO_PCI_CONFIG_REGION_INDEX);
	check(pread(device, &command, 2, config + PCI_COMMAND), "configuration space");
	command |= PCI_COMMAND_MASTER;
	check(pwrite(device, &command, 2, config + PCI_COMMAND), "configuration space");
}

static uint64_t physical(const void *address)
{
	uint64_t entry;

	check(pread(pagemap, &entry, 8, (uintptr_t)address / PAGE * 8), "/proc/self/pagemap");
	if (!(entry & PRESENT) || !(entry & FRAME)) {
		fprintf(stderr, "noiommu: /proc/self/pagemap does not tell where memory is: that takes CAP_SYS_ADMIN\n");
		exit(1);
	}
	return (entry & FRAME) * PAGE + (uintptr_t)address % PAGE;
}

static void set(uint32_t where, uint64_t value)
{
	check(pwrite(device, &value, 8, bar0 + where), "register");
}

static void dma(uint64_t source, uint64_t destination, uint64_t count, uint64_t direction)
{
	uint64_t command = DMA_START;

	set(DMA_SOURCE, source);
	set(DMA_DESTINATION, destination);
	set(DMA_COUNT, count);
	set(DMA_COMMAND, DMA_START | direction);
	while (command & DMA_START)
		check(pread(device, &command, 8, bar0 + DMA_COMMAND), "register");
}

/* Memory that stays where it is: a huge page, or pages that are locked. */
static char *memory(size_t *length)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE;
	char *found = mmap(NULL, *length = HUGE_PAGE, PROT_READ | PROT_WRITE, flags | MAP_HUGETLB, -1, 0);

	if (found != MAP_FAILED) {
		int follows = physical(found + HUGE_PAGE - PAGE) - physical(found) == HUGE_PAGE - PAGE;

		printf("memory: a huge page, physically contiguous: %s\n", follows ? "yes" : "no");
		return found;
	}
	found = mmap(NULL, *length = PAGES * PAGE, PROT_READ | PROT_WRITE, flags, -1, 0);
	if (found == MAP_FAILED || mlock(found, *length))
		fail("memory cannot be locked");
	printf("memory: %d ordinary pages, locked\n", PAGES);
	return found;
}

int main(int argc, char **argv)
{
	static const char text[] = "Hello from user space";
	size_t length;
	uint64_t last;
	char *buffer;

	if (argc < 2 || argc > 3 || (argc == 3 && strcmp(argv[2], "--wild"))) {
		fprintf(stderr, "usage: noiommu 0000:01:00.0 [--wild]\n");
		return 1;
	}
	open_device(argv[1]);
	pagemap = check(open("/proc/self/pagemap", O_RDONLY), "/proc/self/pagemap");
	buffer = memory(&length);
	strcpy(buffer, text);
	dma(physical(buffer), DEVICE_BUFFER, sizeof(text), 0);
	memset(buffer, 0, sizeof(text));
	last = physical(buffer + PAGE);
	dma(DEVICE_BUFFER, last, sizeof(text), DMA_TO_MEMORY);
	printf("to the device and back by DMA, from one page to the next: \"%s\"\n", buffer + PAGE);
	if (strcmp(buffer + PAGE, text))
		return 1;
	munmap(buffer, length);
	if (argc == 3) {
		dma(DEVICE_BUFFER, last, sizeof(text), DMA_TO_MEMORY);
		printf("and once more, to memory that has been given back\n");
	}
	return 0;
}
