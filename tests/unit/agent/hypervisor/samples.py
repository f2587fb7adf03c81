"""Domain XML as libvirt 9.0 writes it for a running VM: its order, its indexes, its aliases."""

CHAIN_OF_THREE = """
<disk type='file' device='disk'>
  <driver name='qemu' type='qcow2' cache='none' error_policy='enospace' io='native' discard='unmap'/>
  <source file='/srv/vmdisks/top.qcow2' index='4'/>
  <backingStore type='file' index='3'>
    <format type='qcow2'/>
    <source file='/srv/vmdisks/middle.qcow2'/>
    <backingStore type='block' index='1'>
      <format type='raw'/>
      <source dev='/dev/vg0/base'/>
      <backingStore/>
    </backingStore>
  </backingStore>
  <target dev='vda' bus='virtio'/>
  <serial>0f6c3d1e</serial>
  <alias name='virtio-disk0'/>
  <address type='pci' domain='0x0000' bus='0x04' slot='0x00' function='0x0'/>
</disk>
"""

COPY = """
<disk type='file' device='disk'>
  <driver name='qemu' type='qcow2' cache='none'/>
  <source file='/srv/vmdisks/top.qcow2' index='1'/>
  <backingStore/>
  <mirror type='block' job='copy' ready='yes'>
    <format type='qcow2'/>
    <source dev='/srv/loopdisks/dev/dm-1-overlay' index='6'/>
    <backingStore type='block' index='7'>
      <format type='qcow2'/>
      <source dev='/srv/loopdisks/dev/dm-1-0'/>
      <backingStore/>
    </backingStore>
  </mirror>
  <target dev='vdb' bus='virtio'/>
  <alias name='virtio-disk1'/>
</disk>
"""

ACTIVE_COMMIT = """
<disk type='block' device='disk'>
  <driver name='qemu' type='qcow2' cache='none' io='native'/>
  <source dev='/dev/vg0/overlay' index='2'/>
  <backingStore type='block' index='1'>
    <format type='qcow2'/>
    <source dev='/dev/vg0/base'/>
    <backingStore/>
  </backingStore>
  <mirror type='block' job='active-commit'>
    <format type='qcow2'/>
    <source dev='/dev/vg0/base' index='1'/>
  </mirror>
  <target dev='vdc' bus='virtio'/>
</disk>
"""

NETWORK = """
<disk type='network' device='disk'>
  <driver name='qemu' type='raw' cache='writeback'/>
  <auth username='libvirt'><secret type='ceph' uuid='c9e3'/></auth>
  <source protocol='rbd' name='pool/image' index='1'>
    <host name='10.0.0.1' port='6789'/>
  </source>
  <backingStore/>
  <target dev='vdd' bus='virtio'/>
</disk>
"""

EMPTY_CDROM = """
<disk type='file' device='cdrom'>
  <driver name='qemu'/>
  <target dev='sda' bus='sata'/>
  <readonly/>
  <alias name='sata0-0-0'/>
  <address type='drive' controller='0' bus='0' target='0' unit='0'/>
</disk>
"""

SHAREABLE = """
<disk type='block' device='disk'>
  <driver name='qemu' type='raw' cache='none'/>
  <source dev='/dev/vg0/quorum' index='1'/>
  <backingStore/>
  <target dev='vde' bus='virtio'/>
  <shareable/>
</disk>
"""

TRANSIENT = """
<disk type='file' device='disk'>
  <driver name='qemu' type='qcow2'/>
  <source file='/srv/vmdisks/kiosk.qcow2' index='1'/>
  <backingStore/>
  <target dev='vdf' bus='virtio'/>
  <transient/>
</disk>
"""

ENCRYPTED = """
<disk type='file' device='disk'>
  <driver name='qemu' type='qcow2'/>
  <source file='/srv/vmdisks/secret.qcow2' index='1'>
    <encryption format='luks'><secret type='passphrase' uuid='0a81'/></encryption>
  </source>
  <backingStore/>
  <target dev='vdg' bus='virtio'/>
</disk>
"""

SLICE_BELOW = """
<disk type='file' device='disk'>
  <driver name='qemu' type='qcow2'/>
  <source file='/srv/vmdisks/top.qcow2' index='2'/>
  <backingStore type='file' index='1'>
    <format type='raw'/>
    <source file='/srv/vmdisks/appliance.ova'>
      <slices><slice type='storage' offset='12345' size='123'/></slices>
    </source>
    <backingStore/>
  </backingStore>
  <target dev='vdh' bus='virtio'/>
</disk>
"""

RAW_WITHOUT_CHAIN = """
<disk type='file' device='disk'>
  <driver name='qemu' type='raw'/>
  <source file='/srv/vmdisks/plain.img' index='1'/>
  <target dev='vdi' bus='virtio'/>
</disk>
"""

UNKNOWN_CHAIN = """
<disk type='file' device='disk'>
  <driver name='qemu' type='qcow2'/>
  <source file='/srv/vmdisks/off.qcow2'/>
  <target dev='vdj' bus='virtio'/>
</disk>
"""

UNKNOWN_BELOW = """
<disk type='file' device='disk'>
  <driver name='qemu' type='qcow2'/>
  <source file='/srv/vmdisks/off.qcow2'/>
  <backingStore type='file'>
    <format type='qcow2'/>
    <source file='/srv/vmdisks/template.qcow2'/>
  </backingStore>
  <target dev='vdk' bus='virtio'/>
</disk>
"""

NVME = """
<disk type='nvme' device='disk'>
  <driver name='qemu' type='raw'/>
  <source type='pci' managed='yes' namespace='1' index='1'>
    <address domain='0x0000' bus='0x01' slot='0x00' function='0x0'/>
  </source>
  <target dev='vdl' bus='virtio'/>
</disk>
"""


def domain(*disks: str) -> str:
    return f"""<domain type='kvm' id='7' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>web-1</name>
  <uuid>0f6c0f1a-6f5e-4a41-8c1c-2b0c9b1f7c11</uuid>
  <metadata>
    <app:inventory xmlns:app="https://example.org/app"><source file="not-a-disk"/></app:inventory>
  </metadata>
  <memory unit='KiB'>1048576</memory>
  <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    {"".join(disks)}
    <controller type='usb' index='0' model='qemu-xhci'/>
    <filesystem type='mount'><source dir='/srv/share'/><target dir='share'/></filesystem>
  </devices>
  <qemu:commandline><qemu:arg value='-no-hpet'/></qemu:commandline>
</domain>
"""
