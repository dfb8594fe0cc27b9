/*
 * The driver of edu.c once more, the older way: by the device's group and a container.
 *
 *     cc -O2 -o edu_group edu_group.c
 *     ./edu_group 0000:01:00.0
 *
 * Runs on a machine with an IOMMU and an edu device bound to vfio-pci, and without either:
 *
 *     ioas run -- ./edu_group 0000:01:00.0
 *
 * What is different: the device belongs to a group, the group is put into a container, and the container maps memory
 * for all its groups. Registers are mapped here, where edu.c reads and writes them.
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

/* Registers of edu, in BAR 0. */
enum {
	IDENTIFICATION = 0x00, FACTORIAL = 0x08, STATUS = 0x20, INTERRUPT_STATUS = 0x24, INTERRUPT_ACKNOWLEDGE = 0x64,
	DMA_SOURCE = 0x80, DMA_DESTINATION = 0x88, DMA_COUNT = 0x90, DMA_COMMAND = 0x98,
};
enum { STATUS_COMPUTING = 1 };
enum { DMA_START = 1, DMA_TO_MEMORY = 2, DMA_INTERRUPT = 4 };
enum { DEVICE_BUFFER = 0x40000 };

enum { PCI_COMMAND = 4, PCI_COMMAND_MASTER = 4 };
enum { LENGTH = 4096, IOVA = 0x100000 /* any address below 2^28 that the IOMMU can map */ };

static int device;
static volatile uint32_t *registers;

static void die(const char *what)
{
	fprintf(stderr, "edu_group: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void check(int good, const char *what)
{
	if (!good) {
		fprintf(stderr, "edu_group: %s\n", what);
		exit(1);
	}
}

/* The group of a PCI device: /dev/vfio/N, with N from sysfs. */
static int open_group(const char *bdf)
{
	char link[256], target[256] = "", path[64];
	int group;

	snprintf(link, sizeof(link), "/sys/bus/pci/devices/%s/iommu_group", bdf);
	if (readlink(link, target, sizeof(target) - 1) < 0)
		die(link);
	snprintf(path, sizeof(path), "/dev/vfio/%.32s", strrchr(target, '/') + 1);
	group = open(path, O_RDWR | O_CLOEXEC);
	if (group < 0)
		die(path);
	printf("edu %s is in group %s\n", bdf, path);
	return group;
}

/* A container that maps for `group`; only now there is an IOMMU behind it. */
static int open_container(int group)
{
	struct vfio_group_status status = { .argsz = sizeof(status) };
	int container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);

	if (container < 0)
		die("/dev/vfio/vfio");
	check(ioctl(container, VFIO_GET_API_VERSION) == VFIO_API_VERSION, "another version of VFIO");
	check(ioctl(container, VFIO_CHECK_EXTENSION, VFIO_TYPE1v2_IOMMU) == 1, "no type 1 IOMMU");
	if (ioctl(group, VFIO_GROUP_GET_STATUS, &status))
		die("VFIO_GROUP_GET_STATUS");
	check(status.flags & VFIO_GROUP_FLAGS_VIABLE, "a device of the group has a driver of the host's");
	if (ioctl(group, VFIO_GROUP_SET_CONTAINER, &container))
		die("VFIO_GROUP_SET_CONTAINER");
	if (ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU))
		die("VFIO_SET_IOMMU");
	return container;
}

static struct vfio_region_info find_region(uint32_t index)
{
	struct vfio_region_info info = { .argsz = sizeof(info), .index = index };

	if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &info))
		die("VFIO_DEVICE_GET_REGION_INFO");
	return info;
}

static void map_registers(void)
{
	struct vfio_region_info bar0 = find_region(VFIO_PCI_BAR0_REGION_INDEX);

	check(bar0.flags & VFIO_REGION_INFO_FLAG_MMAP, "the registers cannot be mapped");
	registers = mmap(NULL, bar0.size, PROT_READ | PROT_WRITE, MAP_SHARED, device, bar0.offset);
	if (registers == MAP_FAILED)
		die("mapping the registers");
}

/* A device that has just been opened may not send anything: neither DMA nor message signalled interrupts. */
static void enable_bus_master(void)
{
	off_t place = find_region(VFIO_PCI_CONFIG_REGION_INDEX).offset + PCI_COMMAND;
	uint16_t command;

	if (pread(device, &command, sizeof(command), place) != sizeof(command))
		die("reading the command register");
	command |= PCI_COMMAND_MASTER;
	if (pwrite(device, &command, sizeof(command), place) != sizeof(command))
		die("writing the command register");
}

/* An eventfd that is signalled by the device's message signalled interrupt. */
static int enable_interrupt(void)
{
	char buffer[sizeof(struct vfio_irq_set) + sizeof(int)];
	struct vfio_irq_set *set = (struct vfio_irq_set *)buffer;
	int event = eventfd(0, EFD_CLOEXEC);

	if (event < 0)
		die("eventfd");
	set->argsz = sizeof(buffer);
	set->flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
	set->index = VFIO_PCI_MSI_IRQ_INDEX;
	set->start = 0;
	set->count = 1;
	memcpy(set->data, &event, sizeof(event));
	if (ioctl(device, VFIO_DEVICE_SET_IRQS, set))
		die("VFIO_DEVICE_SET_IRQS");
	return event;
}

static void dma(int event, uint32_t source, uint32_t destination, uint32_t count, uint32_t direction)
{
	struct pollfd wait = { .fd = event, .events = POLLIN };
	uint64_t interrupts;

	registers[DMA_SOURCE / 4] = source;
	registers[DMA_DESTINATION / 4] = destination;
	registers[DMA_COUNT / 4] = count;
	registers[DMA_COMMAND / 4] = DMA_START | direction | DMA_INTERRUPT;
	if (poll(&wait, 1, 5000) != 1 || read(event, &interrupts, sizeof(interrupts)) != sizeof(interrupts))
		check(0, "no interrupt within 5 seconds");
	registers[INTERRUPT_ACKNOWLEDGE / 4] = registers[INTERRUPT_STATUS / 4];
}

static uint32_t factorial(uint32_t number)
{
	registers[FACTORIAL / 4] = number;
	while (registers[STATUS / 4] & STATUS_COMPUTING)
		usleep(1000);
	return registers[FACTORIAL / 4];
}

int main(int argc, char **argv)
{
	static const char message[] = "Hello from user space";
	struct vfio_iommu_type1_dma_map map = { .argsz = sizeof(map), .size = LENGTH, .iova = IOVA };
	struct vfio_iommu_type1_dma_unmap unmap = { .argsz = sizeof(unmap), .size = LENGTH, .iova = IOVA };
	int group, container, event;
	char *memory;

	check(argc == 2, "usage: edu_group BDF, for example edu_group 0000:01:00.0");
	setvbuf(stdout, NULL, _IOLBF, 0);

	group = open_group(argv[1]);
	container = open_container(group);
	device = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, argv[1]);
	if (device < 0)
		die("VFIO_GROUP_GET_DEVICE_FD");

	/* A page that the device may read and write, where it finds it at IOVA. */
	memory = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		die("mmap");
	map.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;
	map.vaddr = (uintptr_t)memory;
	if (ioctl(container, VFIO_IOMMU_MAP_DMA, &map))
		die("VFIO_IOMMU_MAP_DMA");

	map_registers();
	enable_bus_master();
	event = enable_interrupt();
	printf("identification 0x%08x\n", registers[IDENTIFICATION / 4]);
	printf("10! = %u\n", factorial(10));

	strcpy(memory, message);
	dma(event, IOVA, DEVICE_BUFFER, LENGTH, 0);
	printf("memory to device by DMA: \"%s\", interrupt received\n", memory);
	memset(memory, 0, LENGTH);
	dma(event, DEVICE_BUFFER, IOVA, LENGTH, DMA_TO_MEMORY);
	check(!strcmp(memory, message), "the data came back changed");
	printf("device to memory by DMA: \"%s\", interrupt received\n", memory);

	/* Take the page away from the device, and let the device write to it all the same. */
	if (ioctl(container, VFIO_IOMMU_UNMAP_DMA, &unmap))
		die("VFIO_IOMMU_UNMAP_DMA");
	memset(memory, '-', LENGTH);
	dma(event, DEVICE_BUFFER, IOVA, LENGTH, DMA_TO_MEMORY);
	check(memory[0] == '-' && !memcmp(memory, memory + 1, LENGTH - 1), "the device wrote where it may not");
	printf("device to memory after unmapping: stopped by the IOMMU, memory unchanged\n");
	return 0;
}
