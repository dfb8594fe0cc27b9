/*
 * A driver for an edu device in the machine that it was passed through to: VFIO without an IOMMU, physical addresses,
 * and the device's registers by loads and stores.
 *
 *     edu_noiommu 0000:01:00.0 /dev/vfio/noiommu-0
 *
 * Prints a line for each thing that works and ends with 1 at the first that does not. The device is QEMU's
 * (docs/specs/edu.rst): it computes factorials, copies between its buffer and memory by DMA, and interrupts.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/vfio.h>

enum {
	IDENTIFICATION = 0x00, LIVENESS = 0x04, FACTORIAL = 0x08, STATUS = 0x20, INTERRUPT_STATUS = 0x24,
	INTERRUPT_ACKNOWLEDGE = 0x64, DMA_SOURCE = 0x80, DMA_DESTINATION = 0x88, DMA_COUNT = 0x90, DMA_COMMAND = 0x98,
};
enum { STATUS_COMPUTING = 1, STATUS_INTERRUPT_ON_FACTORIAL = 0x80 };
enum { DMA_START = 1, DMA_TO_MEMORY = 2, DMA_INTERRUPT = 4 };
enum { DEVICE_BUFFER = 0x40000, PAGE = 4096, PCI_COMMAND = 4, PCI_COMMAND_MASTER = 4, WAIT_MS = 20000 };

static volatile uint8_t *bar;
static int interrupt;

static void check(int good, const char *what)
{
	if (good)
		return;
	fprintf(stderr, "edu_noiommu: %s (errno: %s)\n", what, strerror(errno));
	exit(1);
}

static uint32_t load(unsigned offset)
{
	return *(volatile uint32_t *)(bar + offset);
}

static void store(unsigned offset, uint32_t value)
{
	*(volatile uint32_t *)(bar + offset) = value;
}

static void store_wide(unsigned offset, uint64_t value)
{
	*(volatile uint64_t *)(bar + offset) = value;
}

/* Wait for one interrupt, and tell the device that it has come. */
static void wait_for_interrupt(uint32_t expected)
{
	struct pollfd waiting = { .fd = interrupt, .events = POLLIN };
	uint64_t count;

	check(poll(&waiting, 1, WAIT_MS) == 1, "no interrupt came");
	check(read(interrupt, &count, sizeof(count)) == sizeof(count) && count == 1, "not one interrupt");
	check(load(INTERRUPT_STATUS) == expected, "the interrupt status is another one");
	store(INTERRUPT_ACKNOWLEDGE, expected);
	check(load(INTERRUPT_STATUS) == 0, "the interrupt cannot be acknowledged");
}

static void copy(uint64_t source, uint64_t destination, uint32_t command)
{
	store_wide(DMA_SOURCE, source);
	store_wide(DMA_DESTINATION, destination);
	store_wide(DMA_COUNT, PAGE);
	store_wide(DMA_COMMAND, command | DMA_START | DMA_INTERRUPT);
	wait_for_interrupt(0x100);
	check((load(DMA_COMMAND) & DMA_START) == 0, "the DMA has not ended");
}

static uint64_t physical_address(const void *memory)
{
	int pagemap = open("/proc/self/pagemap", O_RDONLY);
	uint64_t entry;
	off_t at = (uintptr_t)memory / PAGE * sizeof(entry);

	check(pagemap >= 0 && pread(pagemap, &entry, sizeof(entry), at) == sizeof(entry), "pagemap");
	close(pagemap);
	check(entry >> 63, "the page is not there");
	return (entry & ((1ULL << 55) - 1)) * PAGE;
}

static int open_device(const char *address, const char *group_node)
{
	int container = open("/dev/vfio/vfio", O_RDWR);
	int group = open(group_node, O_RDWR), device;

	check(container >= 0 && group >= 0, "the container or the group cannot be opened");
	check(ioctl(container, VFIO_CHECK_EXTENSION, VFIO_NOIOMMU_IOMMU) == 1, "there is no VFIO without an IOMMU");
	check(ioctl(group, VFIO_GROUP_SET_CONTAINER, &container) == 0, "VFIO_GROUP_SET_CONTAINER");
	check(ioctl(container, VFIO_SET_IOMMU, VFIO_NOIOMMU_IOMMU) == 0, "VFIO_SET_IOMMU");
	device = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, address);
	check(device >= 0, "VFIO_GROUP_GET_DEVICE_FD");
	return device;
}

static void map_registers(int device)
{
	struct vfio_region_info region = { .argsz = sizeof(region), .index = VFIO_PCI_BAR0_REGION_INDEX };

	check(ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &region) == 0, "VFIO_DEVICE_GET_REGION_INFO");
	bar = mmap(NULL, region.size, PROT_READ | PROT_WRITE, MAP_SHARED, device, region.offset);
	check(bar != MAP_FAILED, "the BAR cannot be mapped");
}

static void enable_bus_master(int device)
{
	struct vfio_region_info region = { .argsz = sizeof(region), .index = VFIO_PCI_CONFIG_REGION_INDEX };
	uint16_t command;

	check(ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &region) == 0, "VFIO_DEVICE_GET_REGION_INFO");
	check(pread(device, &command, 2, region.offset + PCI_COMMAND) == 2, "the command register");
	command |= PCI_COMMAND_MASTER;
	check(pwrite(device, &command, 2, region.offset + PCI_COMMAND) == 2, "the command register");
}

static void enable_interrupt(int device)
{
	struct { struct vfio_irq_set set; int fd; } request = {
		.set = { .argsz = sizeof(request), .flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
			 .index = VFIO_PCI_MSI_IRQ_INDEX, .count = 1 },
		.fd = interrupt = eventfd(0, EFD_CLOEXEC),
	};

	check(ioctl(device, VFIO_DEVICE_SET_IRQS, &request) == 0, "VFIO_DEVICE_SET_IRQS");
}

/* How many interrupts the kernel has taken from devices that VFIO has, by its own count. */
static unsigned long interrupts_counted(void)
{
	FILE *file = fopen("/proc/interrupts", "r");
	unsigned long total = 0, count;
	char line[1024];

	check(file != NULL, "/proc/interrupts");
	while (fgets(line, sizeof(line), file))
		if (strstr(line, "vfio-msi") && sscanf(line, "%*[^:]: %lu", &count) == 1)
			total += count;
	fclose(file);
	return total;
}

int main(int argc, char **argv)
{
	uint8_t *memory;
	uint64_t there;
	int device;

	check(argc == 3, "usage: edu_noiommu ADDRESS GROUP");
	device = open_device(argv[1], argv[2]);
	map_registers(device);
	enable_bus_master(device);
	enable_interrupt(device);

	printf("identification %#x\n", load(IDENTIFICATION));
	store(LIVENESS, 0x12345678);
	printf("liveness %#x\n", load(LIVENESS));
	store(FACTORIAL, 10);
	while (load(STATUS) & STATUS_COMPUTING)
		;
	printf("factorial %u\n", load(FACTORIAL));
	store(STATUS, STATUS_INTERRUPT_ON_FACTORIAL);
	store(FACTORIAL, 12);
	wait_for_interrupt(1);
	printf("factorial by interrupt %u\n", load(FACTORIAL));

	memory = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check(memory != MAP_FAILED && mlock(memory, PAGE) == 0, "no memory");
	for (unsigned i = 0; i < PAGE; i++)
		memory[i] = i * 7;
	there = physical_address(memory);
	check(there + PAGE <= 1ULL << 28, "the page lies beyond what the device can address");
	copy(there, DEVICE_BUFFER, 0);
	memset(memory, 0, PAGE);
	copy(DEVICE_BUFFER, there, DMA_TO_MEMORY);
	for (unsigned i = 0; i < PAGE; i++)
		check(memory[i] == (uint8_t)(i * 7), "the device has written something else");
	printf("DMA both ways, %d bytes each\n", PAGE);
	printf("the kernel has counted %lu interrupts\n", interrupts_counted());
	return 0;
}
